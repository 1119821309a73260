"""A WebSocket of uvicorn's whose messages can be handed over and written without a queue, a task or a copy for each.

A move to a thousand nodes is a thousand equal frames down and a thousand answers up. ASGI's `receive` and `send` cost
a queue, two task switches and a frame's encoding for each of them, which is more than all that the hub does with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

_EXTENSION = "loradeck.link_socket"


def text_frame(text: str) -> bytes:
    """A text message as the bytes that a server writes: they are alike for every connection."""
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=False)


class LinkSocket(WebSocketsSansIOProtocol):
    """The server's end of one WebSocket. It behaves as uvicorn's own until `receiver` is set."""

    receiver: Callable[[bytes], None] | None = None
    """Is called with each text message from then on, instead of it being queued for `receive`."""

    on_writable: Callable[[], None] | None = None
    """Is called when the peer has read so much that writing makes sense again."""

    def handle_connect(self, event: Request) -> None:
        """Start the application, which finds this object in the scope."""
        super().handle_connect(event)
        if not self.close_sent:
            cast(dict[str, Any], self.scope["extensions"])[_EXTENSION] = self

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

    def write_frame(self, frame: bytes) -> bool:
        """Write a frame of `text_frame`; False where the peer does not read, or is gone: nothing was written."""
        if not self.writable.is_set() or self.close_sent or self.disconnected or self.transport.is_closing():
            return False
        self.transport.write(frame)
        return True

    def release(self) -> None:
        """Let go of the callbacks, and with them of whoever they belong to."""
        self.receiver = self.on_writable = None


def link_socket(socket: WebSocket) -> LinkSocket:
    """The protocol object under an accepted WebSocket of this server."""
    found = socket.scope["extensions"][_EXTENSION]
    assert isinstance(found, LinkSocket)
    return found
