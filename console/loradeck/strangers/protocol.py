"""The protocol of a connection until it has shown a key: nothing is parsed for it, and its time and number are bounded.

A listener asks `Strangers` for the protocol of each connection. One that passes is handed to the protocol of the server
proper, with what was received until then. The head of a first request is only looked at as far as a stranger is worth
it: whether it is whole, whether it is too large, and the key that it shows. Who passes is parsed, and asked for the
key, by the server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

from loradeck.schemas.fault import Fault
from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.connections import Connections, Owner

HEAD_BYTES = 16 * 1024
"""Bytes of a request's line and headers together."""

HEAD_LINES = 100
"""Headers of one request."""

LINE_BYTES = 8000
"""Bytes of one header. The WebSocket library stops reading at 8,192."""

_END = re.compile(rb"\n\r?\n")
_BEARER = re.compile(rb"\nauthorization:[ \t]*bearer[ \t]+([^\r\n]*)", re.IGNORECASE)


@dataclass(frozen=True)
class RequestHead:
    """A whole head. `bearer` is None where it shows no key; `target` is as it was sent, never longer than a line."""

    method: str
    target: str
    bearer: str | None


class BadHead(Fault):
    """A head that is refused with an HTTP status."""

    def __init__(self, status: int, code: str, title: str, fix: str) -> None:
        super().__init__(code, title, fix=fix)
        self.status = status


def read_head(data: bytes | bytearray, seen: int = 0) -> RequestHead | None:
    """The head at the beginning of what was received; None: more of it has to come.

    `seen`: how many bytes were looked at before.

    Raises: BadHead: too large, or no HTTP/1.
    """
    if data and not data[:1].isalpha():
        raise BadHead(400, "not_http", "this is not HTTP/1.1", "use https:// only where the server has TLS")
    end = _END.search(data, max(0, seen - 3))
    if (end.end() if end else len(data)) > HEAD_BYTES:
        raise _too_large(f"{HEAD_BYTES} bytes together")
    if end is None:
        return None
    head = bytes(data[: end.end()])
    lines = head.split(b"\n")[:-2]
    if len(lines) - 1 > HEAD_LINES:
        raise _too_large(f"{HEAD_LINES} headers")
    if max(map(len, lines)) > LINE_BYTES:
        raise _too_large(f"{LINE_BYTES} bytes in one header")
    method, _, rest = lines[0].decode("latin-1").partition(" ")
    found = _BEARER.search(head)
    return RequestHead(method, rest.partition(" ")[0], found[1].strip().decode("latin-1") if found else None)


def _too_large(most: str) -> BadHead:
    return BadHead(431, "header_too_large", f"a request's headers have at most {most}", "send fewer or shorter headers")


log = logging.getLogger(__name__)

Answer = bytes
"""A whole HTTP response."""


@dataclass(frozen=True)
class StrangerLimits:
    """What all strangers of a listener may take.

    Args:
        head_s: seconds from a connection's beginning to the end of its first request's headers, a handshake included.
        strangers: connections that have not shown a key; one more ends the one that waits longest.
        files: the highest number of a file that a connection may have: the rest is for the process's own files.
    """

    head_s: float = 10.0
    strangers: int = 4096
    files: int = 1 << 20

    @classmethod
    def under(cls, open_files: int, kept: int) -> StrangerLimits:
        """The limits where a process may open so many files, of which some are kept for what is no connection here."""
        files = open_files - kept
        return cls(strangers=min(cls.strangers, files // 4), files=files)


def answer(status: int, media_type: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    """An HTTP response after which the connection ends."""
    fields = {"content-type": media_type, "content-length": str(len(body)), "connection": "close", **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode() + body


class Strangers:
    """The connections of one listener that have not shown a key.

    Args:
        judge: whose key a request's head, over this connection, shows; else the answer that it gets.
        reject: the answer to a head that is refused for itself.
        tls: where the listener has TLS. The server's own is not used, since its handshakes would be counted nowhere.
        connections: those that have shown a key, of which some end where there is room for no more; None: they are not
            counted, and new connections are refused then.
    """

    def __init__(
        self,
        limits: StrangerLimits,
        *,
        judge: Callable[[RequestHead, asyncio.BaseTransport], Answer | Owner],
        reject: Callable[[BadHead], Answer],
        tls: ServerCertificate | None = None,
        connections: Connections | None = None,
    ) -> None:
        self.connections = connections
        self.limits, self.judge, self.reject, self.tls = limits, judge, reject, tls
        self._waiting: OrderedDict[Stranger, float] = OrderedDict()
        """By connection, in the order in which they began: when their time is over."""
        self._timer: asyncio.TimerHandle | None = None
        self._room = limits.files
        """Connections for which there is room."""

    def __len__(self) -> int:
        return len(self._waiting)

    def protocol(self, known: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """The protocol of a new connection. `known` makes the one that it is handed to when it has shown a key."""
        return Stranger(self, known) if self.tls is None else _BeforeTls(self, known, self.tls.context())

    def begin(self, stranger: Stranger, file: int) -> None:
        """Counts a connection. Where there are too many, the oldest ends; where `file` is too high a number, first one
        that has shown a key.
        """
        if len(self._waiting) >= self.limits.strangers or (self._is_full(file) and not self._make_room()):
            oldest = next(iter(self._waiting), stranger)
            self._waiting.pop(oldest, None)
            oldest.refuse(self.reject(_BUSY))
            if oldest is stranger:
                return
        loop = asyncio.get_running_loop()
        self._waiting[stranger] = loop.time() + self.limits.head_s
        if self._timer is None:
            self._timer = loop.call_later(self.limits.head_s, self._sweep)

    def _is_full(self, file: int) -> bool:
        """Tells whether there is room for no more.

        Files that were closed are the next to be opened: the number of a file says so only now and then, and how many
        connections there were at that time says it from then on.
        """
        if self.connections is None:
            return file >= self.limits.files
        count = len(self._waiting) + len(self.connections)
        if file >= self.limits.files:
            self._room = count
        return count >= self._room

    def _make_room(self) -> bool:
        return self.connections is not None and self.connections.make_room()

    def end(self, stranger: Stranger) -> None:
        """Counts a connection no more: it has passed, or is over."""
        self._waiting.pop(stranger, None)

    def close(self) -> None:
        """Ends all of them; the listener is closed by its owner."""
        if self._timer is not None:
            self._timer.cancel()
        for stranger in list(self._waiting):
            stranger.abort()
        self._waiting.clear()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now, self._timer = loop.time(), None
        while self._waiting:
            stranger, until = next(iter(self._waiting.items()))
            if until > now:
                self._timer = loop.call_at(until, self._sweep)
                return
            del self._waiting[stranger]
            stranger.refuse(self.reject(_SLOW))


_BUSY = BadHead(503, "too_many_connections", "too many connections have not shown a key", "try again")
_SLOW = BadHead(408, "header_too_slow", "the request's headers did not arrive in time", "send them at once")


class Stranger(asyncio.Protocol):
    """One connection that has not shown a key. `known` makes the protocol that it is handed to when it has."""

    __slots__ = ("_handshake", "_known", "_received", "_refused", "_seen", "_strangers", "_transport")

    def __init__(self, strangers: Strangers, known: Callable[[], asyncio.Protocol]) -> None:
        self._strangers = strangers
        self._known = known
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._received = bytearray()
        self._seen = 0
        self._refused = False

    def secure(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Begins its time with a handshake."""
        self._strangers.begin(self, sock.fileno())
        if self._refused:
            sock.close()
        else:
            self._handshake = asyncio.get_running_loop().create_task(self._secure(sock, context))

    async def _secure(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                sock,
                ssl=context,
                ssl_handshake_timeout=self._strangers.limits.head_s,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as error:  # ssl.SSLError and TimeoutError are among them
            log.debug("no handshake: %s", error)
        finally:
            if self._transport is None:
                sock.close()
                self._strangers.end(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins its time, unless that began with a handshake."""
        self._transport = cast(asyncio.Transport, transport)
        if self._handshake is None:
            self._strangers.begin(self, transport.get_extra_info("socket").fileno())

    def data_received(self, data: bytes) -> None:
        """Looks whether the head is whole."""
        if not self._refused:
            self._received += data
            self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends its time."""
        self._strangers.end(self)

    def _look(self) -> None:
        strangers, transport = self._strangers, self._transport
        assert transport is not None
        try:
            head = read_head(self._received, self._seen)
        except BadHead as bad:
            self.refuse(strangers.reject(bad))
            return
        self._seen = len(self._received)
        if head is None:
            return
        verdict = strangers.judge(head, transport)
        if isinstance(verdict, bytes):
            self.refuse(verdict)
            return
        strangers.end(self)
        known = self._known()
        if strangers.connections is not None:
            strangers.connections.joins(known, transport, verdict)
        transport.set_protocol(known)
        known.connection_made(transport)
        known.data_received(bytes(self._received))

    def refuse(self, answer: Answer) -> None:
        """Sends an answer, if it can be read, and ends the connection."""
        if self._refused:
            return
        self._refused = True
        self._received.clear()
        if self._transport is not None:
            self._transport.write(answer)
            self._transport.close()
        elif self._handshake is not None:
            self._handshake.cancel()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._refused = True
        if self._transport is not None:
            self._transport.abort()
        elif self._handshake is not None:
            self._handshake.cancel()


class _BeforeTls(asyncio.Protocol):
    """A connection whose bytes are not read here, but by a handshake on a second handle of its socket.

    A loop that accepts with TLS itself neither counts handshakes nor can end one, and uvloop's `start_tls` misses what
    comes before it.
    """

    def __init__(self, strangers: Strangers, known: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        self._stranger = Stranger(strangers, known)
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        cast(asyncio.Transport, transport).abort()
        self._stranger.secure(sock, self._context)


def address_of(transport: asyncio.BaseTransport) -> str:
    """The address of a connection's other end, without its port."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else "unknown"
