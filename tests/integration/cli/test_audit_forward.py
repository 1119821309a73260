"""`loradeck audit forward`: every line reaches the receiver, and a cursor goes on from where it stood."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.integration.cli.conftest import Desk
from tests.unit.client.test_syslog import frames, read_all


@contextlib.contextmanager
def receiver(path: Path) -> Iterator[list[int]]:
    """A receiver on a UNIX socket. Yields the numbers of the lines that it has got."""
    server, got = socket.socket(socket.AF_UNIX), list[int]()
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, parts = server.accept()[0], list[bytes]()
                with connection:
                    read_all(connection, parts)
                for frame in frames(b"".join(parts)):
                    got.append(json.loads(frame[frame.index(b"{") :])["metadata"]["sequence"])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield got
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join(60)
        server.close()
        path.unlink()


def test_no_line_is_lost_while_the_receiver_is_away_and_another_trail_is_refused(desk: Desk, tmp_path: Path) -> None:
    where, cursor = tmp_path / "siem", tmp_path / "cursor"
    forward = ("audit", "forward", f"unix:{where}", "--cursor", cursor, "--once")
    desk.json("tenant", "create", "siem-one")
    assert "No such file" in desk.refused(1, "unanswered", *forward)["detail"]
    named = desk.token("releaser", "--only", "state", "--only", "events")  # the token of docs/regulated.md
    with receiver(where) as got:
        assert desk.json(*forward, "--hub", desk.url, "--token-file", named)["line"] == len(got)
    assert got == list(range(1, len(got) + 1))
    desk.json("tenant", "create", "siem-two")
    desk.refused(1, "unanswered", *forward)
    with receiver(where) as later:
        desk.json(*forward)
        desk.json(*forward)
    assert later == list(range(len(got) + 1, len(got) + len(later) + 1))
    assert later
    stands = json.loads(cursor.read_text())
    assert (stands["line"], cursor.stat().st_mode & 0o777) == (later[-1], 0o600)
    cursor.write_text(json.dumps({**stands, "digest": "0" * 64}))
    desk.refused(1, "digest_mismatch", *forward)
    desk.refused(2, "usage", "audit", "forward", "tcp://siem", "--cursor", tmp_path / "other")
