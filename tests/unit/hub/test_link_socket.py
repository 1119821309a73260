"""What a node sends reaches the link as the WebSocket library would have read it, however the bytes arrive."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from loradeck.hub.fleet.link_socket import LinkSocket

MAX = 100_000

HANDSHAKE = (
    b"GET /v1/link HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def text(data: bytes, *, fin: bool = True, mask: bool = True, opcode: Opcode = Opcode.TEXT) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=mask)


def long_length(data: bytes, width: int) -> bytes:
    """A frame whose length takes more bytes than it needs."""
    head = bytes((0x81, 0x80 | {2: 126, 8: 127}[width])) + len(data).to_bytes(width)
    return head + bytes(4) + data


MESSAGES = [text(b'{"n":%d}' % n) for n in range(5)]
SIZES = [text(b"x" * n) for n in (0, 1, 125, 126, 65_535, 65_536, MAX)]
STREAMS: dict[str, Sequence[bytes]] = {
    "short messages": MESSAGES,
    "messages of all sizes": [*SIZES, *MESSAGES],
    "lengths in more bytes than they need": [long_length(b"a", 2), long_length(b"b", 8), *MESSAGES],
    "no utf-8": [text(b"\xff\xfe"), *MESSAGES],
    "fragments": [*MESSAGES, text(b"a", fin=False), text(b"b", opcode=Opcode.CONT), *MESSAGES],
    "a message amid fragments": [*MESSAGES, text(b"a", fin=False), *MESSAGES],
    "a fragment without a beginning": [*MESSAGES, text(b"b", opcode=Opcode.CONT), *MESSAGES],
    "pings": [*MESSAGES, text(b"p", opcode=Opcode.PING), *MESSAGES, text(b"p", opcode=Opcode.PONG), *MESSAGES],
    "binary": [*MESSAGES, text(b"b", opcode=Opcode.BINARY), *MESSAGES],
    "a close": [*MESSAGES, text(b"\x03\xe8", opcode=Opcode.CLOSE), *MESSAGES],
    "an unmasked message": [*MESSAGES, text(b"a", mask=False), *MESSAGES],
    "an unmasked message of two bytes of length": [*MESSAGES, text(b"a" * 200, mask=False), *MESSAGES],
    "a reserved bit": [*MESSAGES, b"\xc1\x80\0\0\0\0", *MESSAGES],
    "an unknown opcode": [*MESSAGES, b"\x83\x80\0\0\0\0", *MESSAGES],
    "a message that is too long": [*MESSAGES, text(b"a" * (MAX + 1)), *MESSAGES],
    "the header of a message that is too long": [*MESSAGES, b"\x81\xff" + (2**63 - 1).to_bytes(8) + bytes(4)],
}


class _Transport:
    """Keeps what is written; nothing more is written, and nothing read, once it is closed."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> Any:
        return None

    def pause_reading(self) -> None:
        """A test reads on."""

    def resume_reading(self) -> None:
        """It never stopped."""


class _AsBefore(LinkSocket):
    """The library reads everything."""

    data_received = WebSocketsSansIOProtocol.data_received


async def outcome(kind: type[LinkSocket], chunks: Iterable[bytes], receiver_after: int = 0) -> tuple[Any, ...]:
    """What a connection makes of what arrives: messages, what it queues for ASGI, and what it writes.

    Args:
        receiver_after: how many of the chunks come before there is a receiver.
    """
    over = asyncio.Event()

    async def accept(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await over.wait()

    config = uvicorn.Config(accept, ws=kind, ws_max_size=MAX, ws_per_message_deflate=False, ws_ping_interval=None)
    config.load()
    transport, received = _Transport(), []
    socket = kind(config, ServerState(), {})
    socket.connection_made(transport)  # type: ignore[arg-type]
    socket.data_received(HANDSHAKE)
    await asyncio.sleep(0)
    assert transport.written.startswith(b"HTTP/1.1 101")
    for number, chunk in enumerate(chunks):
        if number == receiver_after:
            socket.receiver = received.append
        if transport.closed:
            break
        socket.data_received(chunk)
    queued = [socket.queue.get_nowait() for _ in range(socket.queue.qsize())]
    over.set()
    await asyncio.gather(*socket.tasks)
    _, _, written = transport.written.partition(b"\r\n\r\n")
    return [bytes(data) for data in received], queued, written, transport.closed


@pytest.mark.parametrize("name", STREAMS)
async def test_the_library_and_the_shorter_way_make_the_same_of_any_stream(name: str) -> None:
    frames = STREAMS[name]
    stream = b"".join(frames)
    expected = await outcome(_AsBefore, frames)
    assert await outcome(LinkSocket, frames) == expected
    assert await outcome(LinkSocket, [stream]) == expected
    dice = random.Random(name)
    for most in (1, 2, 7, 400, 5000) if len(stream) < 10_000 else (400, 5000):
        chunks, at = [], 0
        while at < len(stream):
            size = dice.randint(1, most)
            chunks.append(stream[at : at + size])
            at += size
        assert await outcome(LinkSocket, chunks) == expected


@pytest.mark.parametrize("cut", range(1, 30))
async def test_a_receiver_that_comes_amid_a_frame_gets_what_was_not_queued_before(cut: int) -> None:
    stream = b"".join(MESSAGES)
    chunks = [stream[:cut], stream[cut:]]
    assert await outcome(LinkSocket, chunks, 1) == await outcome(_AsBefore, chunks, 1)


async def test_whole_messages_do_not_go_through_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def library(socket: LinkSocket) -> None:
        raise AssertionError("read by the library")

    longer = text(b"y" * 300)
    report = text(b"y" * 5000)
    stream = b"".join([*MESSAGES, longer, report])
    expected = await outcome(_AsBefore, [stream])
    monkeypatch.setattr(LinkSocket, "send_receive_event_to_app", library)
    assert await outcome(LinkSocket, [stream]) == expected
    assert await outcome(LinkSocket, [*MESSAGES, longer, report]) == expected


async def test_a_message_that_came_in_parts_leaves_the_next_ones_to_the_shorter_way() -> None:
    big = text(b"z" * 5000)
    chunks = [big[:1], big[1:9], big[9:4000], big[4000:] + MESSAGES[0], *MESSAGES]

    class Counting(LinkSocket):
        by_library = 0

        def send_receive_event_to_app(self) -> None:
            Counting.by_library += 1
            super().send_receive_event_to_app()

    received, *_ = await outcome(Counting, chunks)
    assert (len(received), Counting.by_library) == (7, 1)
