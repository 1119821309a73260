"""The hub's listeners: its own Unix socket, TCP with tokens, and TCP for nodes, where a certificate tells who calls.

Each connection is marked with the listener it came over, and each request with its caller.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import ssl
import struct
import sys
from asyncio import Transport
from asyncio.transports import BaseTransport
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h11
from starlette.requests import HTTPConnection
from uvicorn.protocols.http.h11_impl import H11Protocol

from loradeck.hub.access.auth import CALLER, CERTIFICATE, LOCAL, Caller, bearer_of, caller_of, certificate_of
from loradeck.hub.access.problems import headers_of, problem_of, problem_response
from loradeck.hub.fleet.link_socket import TOO_MANY_FRAMES, LinkSocket, is_cut
from loradeck.hub.hub import Hub
from loradeck.hub.standby import StandbyHub
from loradeck.rules.errors import Refused
from loradeck.schemas.address import is_loopback
from loradeck.schemas.audit import KEPT
from loradeck.schemas.membership import AUTHORITY_PATH
from loradeck.schemas.problem import MEDIA_TYPE, Problem
from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.connections import Connections, Owner
from loradeck.strangers.protocol import Answer, BadHead, RequestHead, StrangerLimits, Strangers, address_of, answer

if TYPE_CHECKING:
    from loradeck.hub.access.membership import Membership

LONGEST_SOCKET = 107
"""Bytes that a Unix socket's path may have."""

GRACE_S = 10.0
SLOWEST = 1024
"""A known caller's request has so many seconds to come, and a second more for each so many bytes that have come."""


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


class TcpHttp(H11Protocol):
    """HTTP with a caller who has shown a key: what is owed of a request has a deadline."""

    counted: Connections | None = None
    """Where this connection is counted; None: nowhere."""
    _timer: asyncio.TimerHandle | None = None
    _began = 0.0
    _came = 0
    _upgraded = False

    def data_received(self, data: bytes) -> None:
        """Handles what came, and waits for what is still owed."""
        super().data_received(data)
        owed = self.conn.their_state
        if (owed is h11.IDLE or owed is h11.SEND_BODY) and not self._upgraded:
            self._came += len(data)
            if self._timer is None:
                self._began = self.loop.time()
                self._timer = self.loop.call_later(GRACE_S, self._look)
        elif self._timer is not None:
            self._nothing_owed()
        self._count()

    def on_response_complete(self) -> None:
        """Goes on with the next request, if that has come."""
        super().on_response_complete()
        self._count()

    def _count(self) -> None:
        """Says whether a request is under way. One that has not come as a whole may be ended to make room."""
        if self.counted is None or self._upgraded:
            return
        is_answered = self.cycle is not None and not self.cycle.response_complete
        if is_answered and self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self.counted.begins(self)
        else:
            self.counted.rests(self)

    def _look(self) -> None:
        now = self.loop.time()
        until = self._began + GRACE_S + self._came / SLOWEST
        if self.flow.read_paused:
            until = now + GRACE_S  # it is this end that keeps the peer waiting
        if until > now:
            self._timer = self.loop.call_at(until, self._look)
            return
        self._nothing_owed()
        self._refuse(
            BadHead(408, "body_too_slow", "the rest of this request did not arrive in time", "send it at once")
        )

    def _nothing_owed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._came = None, 0

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hands the connection over."""
        self._upgraded = True
        super().handle_websocket_upgrade(event)
        if self.counted is not None:
            self.counted.begins(self)
            socket = self.transport.get_protocol()
            assert isinstance(socket, LinkSocket)
            socket.on_lost = partial(self.counted.leaves, self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends a connection."""
        self._nothing_owed()
        if self.counted is not None:
            self.counted.leaves(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuses a request that is none, or whose headers are too large."""
        status = getattr(sys.exception(), "error_status_hint", 400)
        code = "header_too_large" if status == 431 else "not_http"
        self._refuse(BadHead(status, code, "the hub cannot read this request", "send HTTP/1.1"))

    def _refuse(self, bad: BadHead) -> None:
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(problem_answer(bad.as_problem(bad.status)))
        self.transport.close()


class NodeHttp(TcpHttp):
    """HTTP with a node: its requests and its WebSocket know the certificate of their connection."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begins a connection."""
        super().connection_made(transport)
        self.app_state = {CERTIFICATE: _proved(transport)}


def _proved(transport: BaseTransport) -> bytes | None:
    """The certificate (DER) of the other end of a connection, whose key its handshake has proved."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return tls.getpeercert(binary_form=True) if tls is not None else None


class LocalHttp(TcpHttp):
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


Gate = Hub | StandbyHub
"""The hub behind a listener: an active one, or one that stands by, which writes nothing down."""


@dataclass(eq=False)
class Door:
    """ASGI wrapper that lets callers in: each request is marked with its caller, and no other gets further."""

    _app: Any
    _gate: Gate
    _local: bool
    _membership: Membership | None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves one request or WebSocket."""
        scope[LOCAL] = self._local
        try:
            scope[CALLER] = await self._caller(HTTPConnection(scope))
        except Refused as refused:
            address = (scope.get("client") or ("unknown",))[0]
            problem = failed_login(self._gate, address, scope["path"], refused)
            await problem_response(problem)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if is_cut(scope):
                self._gate.metrics.refuse(TOO_MANY_FRAMES)
                whose = scope[CALLER].actor
                self._gate.refusals.note(f"a WebSocket of {whose} was closed: it sent more frames than it may")

    async def _caller(self, connection: HTTPConnection) -> Caller:
        members, audit = self._membership, self._gate.audit
        if members is None:
            return caller_of(connection, self._gate.known.caller)
        shown = certificate_of(connection)
        caller = members.caller(shown, bearer_of(connection), connection.scope["path"])
        if shown is not None and audit is not None and (key := await members.bind(shown)) is not None:
            audit.called(caller, KEPT, {"token": key.id, "record": key.digest})
        return caller


def failed_login(hub: Gate, address: str, path: str, refused: Refused) -> Problem:
    """Counts a login that was refused. Returns what is answered: that it was, or that too many were."""
    wait = hub.failed_logins.failed(address, path[:200])
    if wait is not None:
        refused = Refused(
            "too_many_failed_logins",
            "too many logins have failed from this address",
            detail="in the last minute; a valid token is let in all the same",
            fix="use a token that this hub knows",
            context={"retry_after_s": wait},
        )
    hub.metrics.refuse(refused.code)
    return problem_of(refused)


def problem_answer(problem: Problem) -> Answer:
    """A problem document as a whole response, for connections that no app has seen."""
    return answer(problem.status, MEDIA_TYPE, problem.model_dump_json().encode(), headers_of(problem))


def owner_of(caller: Caller) -> Owner:
    """Returns who a caller's connections are counted for: its node, the one tenant that it is for, or itself."""
    if caller.node is not None:
        whose = f"node {caller.node}"
    elif caller.tenants is not None and len(caller.tenants) == 1:
        (whose,) = caller.tenants
    else:
        whose = f"{caller.actor} (of several tenants)"
    return Owner(whose, caller.token or caller.actor)


def strangers(
    hub: Gate,
    limits: StrangerLimits,
    tls: ServerCertificate | None,
    connections: Connections,
    membership: Membership | None = None,
) -> Strangers:
    """The strangers of a TCP listener: who shows a valid token is none, or, where nodes call, a valid certificate.

    `connections`: of all the hub's listeners, since they share the files that its process may open.
    """

    def judge(head: RequestHead, transport: BaseTransport) -> Answer | Owner:
        path = head.target.partition("?")[0]
        try:
            if membership is None:
                return owner_of(hub.known.caller(head.bearer))
            if path == AUTHORITY_PATH:
                return answer(200, "application/x-pem-file", membership.authority.signer_pem.encode())
            return owner_of(membership.caller(_proved(transport), head.bearer, path))
        except Refused as refused:
            return problem_answer(failed_login(hub, address_of(transport), head.target, refused))

    def reject(bad: BadHead) -> Answer:
        hub.metrics.refuse(bad.code)
        return problem_answer(bad.as_problem(bad.status))

    return Strangers(limits, judge=judge, reject=reject, tls=tls, connections=connections)


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


def host_of(listen: str) -> str:
    """The host of `HOST:PORT`, without brackets. Raises: Refused `invalid_request`: it is not HOST:PORT."""
    host, colon, port = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise Refused("invalid_request", f"{listen!r} is not HOST:PORT", fix="for example 127.0.0.1:7400")
    return host


def tcp_socket(listen: str, *, tls: bool) -> socket.socket:
    """A socket bound to `HOST:PORT` (port 0: any free one).

    Raises: Refused `invalid_request`: not HOST:PORT, or beyond loopback without TLS; OSError when it is taken.
    """
    host, port = host_of(listen), listen.rpartition(":")[2]
    if not tls and not is_loopback(host):
        raise Refused(
            "invalid_request",
            "TCP beyond loopback needs TLS",
            detail=f"--listen {listen}",
            fix="make a certificate with `loradeck hub init`, give --tls-cert and --tls-key, or listen on 127.0.0.1",
        )
    info = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(*info[:3])  # the protocol, too: asyncio turns off Nagle for TCP alone
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(info[4])
    except OSError:
        sock.close()
        raise
    return sock
