"""A small HTTP/1.1 client on asyncio and h11, over a Unix socket or TCP with TLS.

The daemon talks to its router, its engines and the hub with this one client. The path of a flip needs a
connection that is already open and nothing between it and the socket, and the daemon's memory budget has no
room for a larger library beside pydantic.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11

from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import spare_address, user_at

CHUNK = 1 << 16
IDLE_KEPT = 4
"""Connections kept open between calls."""


@dataclass(frozen=True)
class Reply:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises ValueError where it is none."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text; bytes that are no UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")


@dataclass(frozen=True)
class Endpoint:
    """Where a client connects to: a Unix socket, or a host and port."""

    unix: Path | None = None
    lock: Path | None = None
    """The lock file of the process there: its spare address is tried where there is no socket."""
    host: str = "localhost"
    port: int = 0
    tls: ssl.SSLContext | None = None
    server: str | None = None
    """The name that the certificate there must have; None: that of the host."""

    @classmethod
    def of_url(cls, url: str, tls: ssl.SSLContext | None = None, server: str | None = None) -> Endpoint:
        """The endpoint of an http or https URL. `tls` None: authorities that this machine trusts."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        if secure and tls is None:
            tls = ssl.create_default_context()
        port = parts.port or (443 if secure else 80)
        return cls(host=parts.hostname or "localhost", port=port, tls=tls if secure else None, server=server)

    @property
    def authority(self) -> str:
        """The Host header: without the scheme's own port, as in the URLs that are signed."""
        if self.unix:
            return "localhost"
        return str(self).removesuffix(":443" if self.tls else ":80")

    def __str__(self) -> str:
        if self.unix:
            return str(self.unix)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class _Asked:
    """One request; see `HttpClient.call`."""

    method: str
    path: str
    body: bytes | AsyncIterable[bytes] | None
    size: int | None
    sink: Callable[[bytes], None] | None
    headers: Mapping[str, str]


class _Line:
    """One connection; good for another exchange after a complete one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.h11 = h11.Connection(h11.CLIENT)
        self.used = False
        self.received = False

    def close(self) -> None:
        self.writer.close()

    async def next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self.h11.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]
            data = await self.reader.read(CHUNK)
            self.received = self.received or bool(data)
            self.h11.receive_data(data)


@dataclass
class HttpClient:
    """Calls to one endpoint, over connections that are kept open.

    Every call raises `Unreachable` when no complete answer came (refused, reset, timed out, not HTTP).
    """

    endpoint: Endpoint
    headers: Mapping[str, str] = field(default_factory=dict)
    connections: int = field(default=0, init=False)
    """Opened so far. While it stays, every answer came from the process that answered before."""
    _idle: list[_Line] = field(default_factory=list, init=False)

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        size: int | None = None,
        timeout: float,
        sink: Callable[[bytes], None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Sends one request and reads its whole answer.

        Args:
            body: JSON bytes, or an iterable of chunks of `size` bytes in all.
            timeout: seconds for the whole exchange, connecting included.
            sink: receives the body of a 2xx answer piece by piece instead of `Reply.body`.
            headers: beside those of the client.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._call(_Asked(method, path, body, size, sink, headers or {}))
        except TimeoutError as error:
            why = f"{method} {path} took more than {timeout:g} s"
            raise Unreachable(str(self.endpoint), why, silent=True) from error
        except (OSError, EOFError, h11.RemoteProtocolError) as error:
            raise Unreachable(str(self.endpoint), f"{method} {path}: {error or type(error).__name__}") from error

    async def post(self, path: str, document: Any, *, timeout: float) -> Reply:
        """Sends a document as JSON. `timeout` in seconds, for the whole exchange."""
        return await self.call("POST", path, json.dumps(document).encode(), timeout=timeout)

    async def get(self, path: str, *, timeout: float) -> Reply:
        """Asks for a path. `timeout` in seconds, for the whole exchange."""
        return await self.call("GET", path, timeout=timeout)

    def close(self) -> None:
        """Closes the idle connections; the next call opens one."""
        while self._idle:
            self._idle.pop().close()

    async def _call(self, asked: _Asked) -> Reply:
        while True:
            line = self._idle.pop() if self._idle else await self._connect()
            try:
                reply = await self._exchange(line, asked)
            except (OSError, h11.RemoteProtocolError):
                line.close()
                # The server closed a connection that lay idle: it never saw this request.
                if line.used and not line.received and (asked.body is None or isinstance(asked.body, bytes)):
                    continue
                raise
            except BaseException:
                line.close()
                raise
            if line.h11.our_state is h11.DONE and line.h11.their_state is h11.DONE and len(self._idle) < IDLE_KEPT:
                line.h11.start_next_cycle()
                line.used, line.received = True, False
                self._idle.append(line)
            else:
                line.close()
            return reply

    async def _connect(self) -> _Line:
        at = self.endpoint
        self.connections += 1
        if at.unix is not None:
            try:
                return _Line(*await asyncio.open_unix_connection(str(at.unix)))
            except (FileNotFoundError, ConnectionRefusedError):
                if at.lock is None:
                    raise
            return await _at_spare_address(at.lock)
        server = at.server if at.tls else None
        return _Line(*await asyncio.open_connection(at.host, at.port, ssl=at.tls, server_hostname=server))

    async def _exchange(self, line: _Line, asked: _Asked) -> Reply:
        method, body, sink = asked.method, asked.body, asked.sink
        headers = [("host", self.endpoint.authority), *self.headers.items(), *asked.headers.items()]
        if isinstance(body, bytes):
            headers += [("content-type", "application/json"), ("content-length", str(len(body)))]
        elif body is not None:
            headers += [("content-type", "application/octet-stream"), ("content-length", str(asked.size))]
        elif method != "GET":
            headers.append(("content-length", "0"))
        conn, writer = line.h11, line.writer
        out = conn.send(h11.Request(method=method, target=asked.path, headers=headers)) or b""
        if isinstance(body, bytes):
            out += conn.send(h11.Data(data=body)) or b""
        elif body is not None:
            writer.write(out)
            out = b""
            async for chunk in body:
                writer.write(conn.send(h11.Data(data=chunk)) or b"")
                await writer.drain()
        writer.write(out + (conn.send(h11.EndOfMessage()) or b""))
        await writer.drain()

        status, got, answer = 0, bytearray(), {}
        while True:
            event = await line.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
                answer = {k.decode("latin-1"): v.decode("latin-1") for k, v in event.headers}
            elif isinstance(event, h11.Data):
                if sink is not None and 200 <= status < 300:
                    sink(bytes(event.data))
                else:
                    got += event.data
            elif isinstance(event, h11.EndOfMessage):
                return Reply(status, answer, bytes(got))
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("the connection was closed before an answer")


async def _at_spare_address(lock: Path) -> _Line:
    """Connects to the process that holds a lock, and to nobody else who took its address."""
    address, owner = spare_address(lock)
    line = _Line(*await asyncio.open_unix_connection(address))
    if user_at(line.writer.get_extra_info("socket")) not in (owner, 0):
        line.close()
        raise ConnectionRefusedError("another user has taken its spare address")
    return line


def problem_of(reply: Reply, who: str) -> AgentError:
    """The error that a refusing answer stands for, with the code of its problem document if it has one."""
    try:
        document = reply.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("code"), str):
        return AgentError("unexpected_answer", f"{who} answered {reply.status}", reply.text[:300])
    return AgentError(
        document["code"],
        str(document.get("title", f"{who} answered {reply.status}")),
        str(document.get("detail", "")),
        str(document.get("fix", "")),
    )
