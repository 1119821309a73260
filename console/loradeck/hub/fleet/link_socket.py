"""A WebSocket of uvicorn's whose messages can be handed over and written without a queue, a task or a copy for each.

A move to a thousand nodes is a thousand equal frames down and a thousand answers up. ASGI's `receive` and `send` cost
a queue, two task switches and a frame's encoding for each of them, which is more than all that the hub does with it.
The library's parser is resumed for every part of a frame. The frames that nodes send, text in one piece, are
recognised before it where they have come as a whole; all others are left to it. It answers pings and joins parts before
anybody hears of them, so that frames are counted here first: a peer that sends more than it may is closed.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame, Opcode, apply_mask  # type: ignore[attr-defined]  # in C where built so
from websockets.http11 import Request

from loradeck.rules.serving.link_bounds import FRAME_BYTES, Allowance

_EXTENSION = "loradeck.link_socket"

_WHOLE_TEXT = 0x80 | Opcode.TEXT
_MASKED = 0x80
_LENGTHS = {126: 2, 127: 8}
"""Parts of a frame's header (RFC 6455, 5.2); the last: how many bytes of length follow its second byte."""

_ALL = sys.maxsize

TOO_MANY_FRAMES = "too_many_frames"
"""The reason of a close for frames beyond what a peer may send; its code is 1008."""

CUT_S = 2.0
"""Seconds in which a peer that was closed for its frames has to read that."""

FIRST_BYTES = 4 * 1024 * 1024
"""Bytes of the longest message of a console, and of a node before its hello."""


def text_frame(text: str) -> bytes:
    """A text message as the bytes that a server writes: they are alike for every connection."""
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=False)


def _payload(data: bytes, at: int) -> tuple[int, int] | None:
    """The bounds of the payload of the frame at `at`; None: it is not masked, as all of a client's are.

    A payload that begins after the end of `data` is one whose header has not come as a whole.
    """
    start = at + 6
    if at + 1 == len(data):
        return start, start
    length = data[at + 1] - _MASKED
    if length < 0:
        return None
    if length in _LENGTHS:
        start += _LENGTHS[length]
        length = int.from_bytes(data[at + 2 : start - 4])
    return start, start + length


class LinkSocket(WebSocketsSansIOProtocol):
    """The server's end of one WebSocket. It behaves as uvicorn's own until `receiver` is set."""

    receiver: Callable[[bytes], None] | None = None
    """Is called with each text message from then on, instead of it being queued for `receive`."""

    on_writable: Callable[[], None] | None = None
    """Is called when the peer has read so much that writing makes sense again."""

    on_lost: Callable[[], None] | None = None
    """Is called when the connection is over."""

    is_cut = False
    """Whether this end has closed the connection because its peer sent more frames than it may."""

    _allowance: Allowance
    """What the peer may still send besides messages to a receiver, which counts those itself."""

    _owed = _ALL
    """Bytes that the library is still to be given before the next frame begins: all, until the handshake is over."""

    _rest = b""
    """The beginning of a header that has not come as a whole."""

    def data_received(self, data: bytes) -> None:
        """Hand text messages that have come in one piece to the receiver; count all else and give it to the library."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, size = 0, len(data)
        while at < size:
            end = at + self._owed
            if at == end:
                bounds = _payload(data, at)
                if bounds is None:
                    end += _ALL  # a violation, by which the library ends the connection
                else:
                    start, end = bounds
                    if start > size:
                        self._rest = data[at:]
                        return
                    longest = self.conn.max_message_size or _ALL
                    is_message = (
                        data[at] == _WHOLE_TEXT and self.receiver is not None and self.conn.current_size is None
                    )
                    if not is_message and self._is_beyond(min(end - start, longest)):
                        self._cut()
                        return
                    whole = end <= size and end - start <= longest
                    if whole and is_message and self.receiver is not None and not self.close_sent:
                        self.receiver(apply_mask(data[start:end], data[start - 4 : start]))
                        at = end
                        continue
            self._owed = max(0, end - size)
            super().data_received(data[at:end])
            if self.transport.is_closing():
                return
            at = end

    def handle_connect(self, event: Request) -> None:
        """Start the application, which finds this object in the scope."""
        super().handle_connect(event)
        if not self.close_sent:
            self._owed = 0
            self._allowance = Allowance(self.loop.time())
            cast(dict[str, Any], self.scope["extensions"])[_EXTENSION] = self

    def _is_beyond(self, size: int) -> bool:
        return self._allowance.take(size, self.loop.time(), FRAME_BYTES) > 0

    def _cut(self) -> None:
        """Ends the connection with a close code, or without a word where its peer does not read or was not accepted."""
        self.is_cut = True
        if self.handshake_complete and not self.close_sent and self.writable.is_set():
            self.conn.fail(CloseCode.POLICY_VIOLATION, TOO_MANY_FRAMES)
            self.handle_parser_exception()
            self.loop.call_later(CUT_S, self.transport.abort)
        else:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.POLICY_VIOLATION})
            self.transport.abort()

    def handle_parser_exception(self) -> None:
        """Ends the connection for a violation. Whoever writes to it from now on hears that it is over."""
        super().handle_parser_exception()
        self.disconnected = True

    def handle_ping(self) -> None:
        """Answers a ping, unless the peer does not read: its answers would be kept for it."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def send_receive_event_to_app(self) -> None:
        """Hand a complete message to the receiver, or queue it where there is none."""
        if self.receiver is None or self.curr_msg_data_type != "text":
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if not self.close_sent:
            self.receiver(data)

    def resume_writing(self) -> None:
        """The transport's buffer is below its low-water mark again."""
        super().resume_writing()
        if self.on_writable is not None:
            self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        if self.on_lost is not None:
            self.on_lost()
        super().connection_lost(exc)

    def write_frame(self, frame: bytes) -> bool:
        """Write a frame of `text_frame`; False where the peer does not read, or is gone: nothing was written."""
        if not self.writable.is_set() or self.close_sent or self.disconnected or self.transport.is_closing():
            return False
        self.transport.write(frame)
        return True

    def pause_reading_for(self, seconds: float) -> None:
        """Read nothing for so long: the peer has sent more than it may. TCP makes it wait."""
        if not self.transport.is_closing():
            self.transport.pause_reading()
            self.loop.call_later(seconds, self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing() and not self.read_paused:
            self.transport.resume_reading()

    def release(self) -> None:
        """Let go of the callbacks, and with them of whoever they belong to."""
        self.receiver = self.on_writable = None


def is_cut(scope: Mapping[str, Any]) -> bool:
    """Tells whether the connection of an ASGI scope was a WebSocket that was closed for its frames."""
    found = scope["extensions"].get(_EXTENSION) if scope["type"] == "websocket" else None
    return found is not None and cast(LinkSocket, found).is_cut


def link_socket(socket: WebSocket) -> LinkSocket:
    """The protocol object under an accepted WebSocket of this server."""
    found = socket.scope["extensions"][_EXTENSION]
    assert isinstance(found, LinkSocket)
    return found
