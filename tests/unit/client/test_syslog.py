"""Delivery to a syslog receiver: framed by RFC 5424, and confirmed by its end of the connection alone."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.certificate import certificate

from loradeck.client.syslog import NotConfirmed, Receiver, message

EVENT = {"time": 1_790_000_000_123, "severity_id": 2, "message": "naïve\n"}


@contextlib.contextmanager
def listening(server: socket.socket, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Serves one connection in a thread."""
    server.listen()

    def one() -> None:
        with contextlib.suppress(OSError):
            serve(server.accept()[0])

    thread = threading.Thread(target=one)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
        server.close()


def local(folder: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "log"))
    return server


def frames(data: bytes) -> list[bytes]:
    """What a receiver reads by octet counting."""
    found = []
    while data:
        length, _, data = data.partition(b" ")
        found.append(data[: int(length)])
        data = data[int(length) :]
    return found


def read_all(connection: socket.socket, into: list[bytes]) -> None:
    while part := connection.recv(65536):
        into.append(part)


def test_a_message_has_the_head_of_rfc_5424_and_one_line_of_ascii() -> None:
    text = message(EVENT, "eu 1\n")
    head = rb"<109>1 2026-09-21T14:13:20\.123Z eu_1_ loradeck - audit - "
    assert re.fullmatch(head + rb'\{"time":1790000000123,"severity_id":2,"message":"na\\u00efve\\n"\}', text)
    assert message({**EVENT, "severity_id": 3}, "")[:8] == b"<108>1 2"


def test_a_unix_receiver_that_has_read_all_confirms_it(tmp_path: Path) -> None:
    got: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            read_all(connection, got)

    with listening(local(tmp_path), serve):
        Receiver(path=tmp_path / "log").deliver([b"one", b"two and three"])
    assert frames(b"".join(got)) == [b"one", b"two and three"]


def test_one_that_dies_with_lines_unread_does_not(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        connection.close()

    with listening(local(tmp_path), serve), pytest.raises(OSError, match=r"reset|Broken pipe"):
        Receiver(path=tmp_path / "log").deliver([b"x" * 1000])


def test_one_that_is_away_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Receiver(path=tmp_path / "log").deliver([b"x"])


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("trusting", [True, False])
def test_over_tls_the_end_has_to_be_answered_by_tls_itself(tmp_path: Path, answers: bool, trusting: bool) -> None:
    cert, key = certificate(tmp_path)
    server_tls, tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=cert)
    server_tls.load_cert_chain(cert, key)
    server, got = socket.create_server(("127.0.0.1", 0)), list[bytes]()

    def serve(connection: socket.socket) -> None:
        secure = server_tls.wrap_socket(connection, server_side=True)
        read_all(secure, got)
        if answers:
            secure.unwrap().close()
        secure.close()

    to = Receiver(host="127.0.0.1", port=server.getsockname()[1], tls=tls, trusting=trusting)
    with listening(server, serve):
        if answers or trusting:
            to.deliver([b"one", b"two"])
        else:
            with pytest.raises(NotConfirmed, match="close_notify"):
                to.deliver([b"one", b"two"])
    assert frames(b"".join(got)) == [b"one", b"two"]


def test_over_tls_a_stranger_gets_nothing(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_tls.load_cert_chain(cert, key)
    server, got = socket.create_server(("127.0.0.1", 0)), list[bytes]()

    def serve(connection: socket.socket) -> None:
        read_all(server_tls.wrap_socket(connection, server_side=True), got)

    to = Receiver(host="127.0.0.1", port=server.getsockname()[1], tls=ssl.create_default_context())
    with listening(server, serve), pytest.raises(ssl.SSLCertVerificationError):
        to.deliver([b"one"])
    assert got == []


def test_over_tls_a_receiver_that_ends_first_has_confirmed_nothing(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    server_tls, tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=cert)
    server_tls.load_cert_chain(cert, key)
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with server_tls.wrap_socket(connection, server_side=True) as secure:
            secure.settimeout(0)
            with contextlib.suppress(ssl.SSLWantReadError):
                secure.unwrap()  # it is being stopped: it says close_notify, and reads nothing more
            ended = select.poll()
            ended.register(secure, select.POLLRDHUP)
            ended.poll(10_000)

    to = Receiver(host="127.0.0.1", port=server.getsockname()[1], tls=tls)
    with listening(server, serve), pytest.raises(ConnectionResetError):
        to.deliver([b"one", b"two"])
