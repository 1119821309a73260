"""The hub's two listeners: its own Unix socket, and TCP. Each connection is marked with the one it came over."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from asyncio import Transport
from asyncio.transports import BaseTransport
from pathlib import Path
from typing import Any

from starlette.websockets import WebSocket
from uvicorn.protocols.http.h11_impl import H11Protocol

from loradeck.hub.access.auth import LOCAL
from loradeck.hub.fleet.link_socket import LinkSocket
from loradeck.hub.links.all_links import PATH
from loradeck.rules.errors import Refused
from loradeck.schemas.address import is_loopback

LONGEST_SOCKET = 107
"""Bytes that a Unix socket's path may have."""


def _login(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid{uid}"


def peer_login(transport: BaseTransport) -> str:
    """The login name of the process at the other end of a Unix socket, as the kernel knows it."""
    sock = transport.get_extra_info("socket")
    if not hasattr(socket, "SO_PEERCRED"):  # macOS: the socket's mode admits nobody but us
        return _login(os.getuid())
    with socket.socket(fileno=os.dup(sock.fileno())) as own:
        _, uid, _ = struct.unpack("3i", own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return _login(uid)


class LocalHttp(H11Protocol):
    """HTTP on the own socket: the client's address is its login name."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begins a connection."""
        super().connection_made(transport)
        self.client = (peer_login(transport), 0)


class LocalWebSocket(LinkSocket):
    """WebSockets on the own socket: the client's address is its login name."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Begins a connection."""
        super().connection_made(transport)
        self.client = (peer_login(transport), 0)


class Door:
    """ASGI wrapper that marks each connection with the listener it came over.

    Links do not go through the app: what the framework keeps on the stack of each connection would be
    15 kB for every node of the fleet.
    """

    def __init__(self, app: Any, *, local: bool) -> None:
        self._app = app
        self._local = local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves one connection."""
        scope[LOCAL] = self._local
        if scope["type"] == "websocket" and scope["path"] == PATH:
            await self._app.state.hub.accept_link(WebSocket(scope, receive, send))
            return
        await self._app(scope, receive, send)


def own_socket(path: Path) -> socket.socket:
    """The hub's socket at `path`, 0600; a socket left by a hub that was killed is replaced.

    The caller holds the folder's lock, so no living hub can be listening there.

    Raises: Refused `invalid_request` when the path is too long for a socket.
    """
    if len(os.fsencode(path)) > LONGEST_SOCKET:
        raise Refused(
            "invalid_request",
            f"the path of the hub's socket is longer than {LONGEST_SOCKET} bytes",
            detail=str(path),
            fix="choose a shorter folder with --data",
        )
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(old)
    return sock


def tcp_socket(listen: str, *, tls: bool) -> socket.socket:
    """A socket bound to `HOST:PORT` (port 0: any free one).

    Raises: Refused `invalid_request`: not HOST:PORT, or beyond loopback without TLS; OSError when it is taken.
    """
    host, colon, port = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise Refused("invalid_request", f"--listen {listen!r} is not HOST:PORT", fix="for example 127.0.0.1:7400")
    if not tls and not is_loopback(host):
        raise Refused(
            "invalid_request",
            "TCP beyond loopback needs TLS",
            detail=f"--listen {listen}",
            fix="give --tls-cert and --tls-key, or listen on 127.0.0.1",
        )
    info = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(info[0], info[1])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(info[4])
    except OSError:
        sock.close()
        raise
    return sock
