"""A hub that stands by, as its callers meet it: its own standing, and for all else where the active hub is.

It listens where the active hub of this process will, and lets in whom that one would. Nodes keep their links to it, so
that they hear at once when it takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from loradeck.hub.access.auth import authenticated
from loradeck.hub.access.problems import problem_of, problem_response
from loradeck.hub.access.sign_ins import KnownCallers
from loradeck.hub.links.all_links import PATH
from loradeck.hub.links.node_link import BAD_MESSAGE
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.log.takeover import Standby
from loradeck.hub.views.metrics import Metrics
from loradeck.hub.views.status import lease_status
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.ids import Role
from loradeck.schemas.link import Bookmark, Hello, Welcome
from loradeck.schemas.protocol import PROTOCOL
from loradeck.schemas.replica_state import HEARTBEAT_S, LINK_TTL_S, NOT_ACTIVE
from loradeck.schemas.state import LeaseStatus
from loradeck.store.interface import StoreError
from loradeck.strangers.failed_logins import FailedLogins
from loradeck.strangers.minute_log import MinuteLog

if TYPE_CHECKING:
    from loradeck.hub.access.membership import Membership
    from loradeck.hub.access.provider import Provider

log = logging.getLogger("loradeck.hub.standby")

TOKENS_S = 2.0
"""Seconds between two looks at the tokens in the database: one that is made or withdrawn counts here so much later."""


class StandbyHub:
    """The ASGI app of a hub that stands by, and who may call it."""

    membership: Membership | None = None
    audit = None

    def __init__(
        self, store: StoreThread, standby: Standby, known: KnownCallers, provider: Provider | None, *, name: str
    ) -> None:
        self.standby = standby
        self.known = known
        self.metrics = Metrics()
        self.metrics.stands_by(standby)
        self.failed_logins = FailedLogins(time.monotonic, log.warning)
        self.refusals = MinuteLog(time.monotonic, log.warning)
        self._store = store
        self._provider = provider
        self._name = name

    async def run(self) -> None:
        """Keeps up with the tokens until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_tokens())
            if self._provider is not None:
                group.create_task(self._provider.run(lambda answered, why: None))

    async def _read_tokens(self) -> None:
        while True:
            await asyncio.sleep(TOKENS_S)
            with contextlib.suppress(StoreError):  # `Standby` tells of it
                self.known.tokens.load(await self._store(lambda s: s.tokens()))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves one request or WebSocket."""
        if scope["type"] != "websocket":
            await self._answer(Request(scope))(scope, receive, send)
            return
        socket = WebSocket(scope, receive, send)
        if scope["path"] == PATH and authenticated(socket).role is Role.AGENT:
            await self._keep(socket)
        else:
            await socket.send_denial_response(problem_response(problem_of(self.refusal())))

    def _answer(self, request: Request) -> Response:
        match request.method, request.url.path:
            case "GET", "/healthz":
                return JSONResponse({"ok": True})
            case "GET", "/v1/lease" if (status := self.status()) is not None:
                return JSONResponse(status.model_dump(mode="json"))
            case "GET", "/readyz":
                at = self._mark()
                body = {"ready": False, "refusing": NOT_ACTIVE, "waiting": None, "epoch": at.epoch, "rev": at.rev}
                return JSONResponse(body, 503)
            case "GET", "/metrics":
                return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
        self.metrics.refuse(NOT_ACTIVE)
        return problem_response(problem_of(self.refusal()))

    def status(self) -> LeaseStatus | None:
        """Returns what holds about the lease, as this hub last read it; None: it has not read it yet."""
        head, log_ = self.standby.head, self.standby.log
        if head is None or log_ is None:
            return None
        return lease_status(
            head,
            hub=self._name,
            active=False,
            folded=log_.state.rev,
            read_s=self.standby.read_s,
            left_s=self.standby.left_s,
            unrenewed_s=self.standby.unrenewed_s,
            lost=[part.tail.revs for part in self.standby.lost],
        )

    def refusal(self) -> Refused:
        """The refusal of what only the active hub does."""
        status, where, address = self.status(), "no hub is active now; one takes over within seconds", ""
        if status is not None and (status.left_s is None or status.left_s > status.read_s):
            address = status.address
            where = f"the active hub is {status.holder}" + (f" at {address}" if address else "")
        title, fix = f"the hub {self._name} stands by and does not serve this", "use the active hub's address"
        return Refused(NOT_ACTIVE, title, detail=where, fix=fix, context={"address": address})

    async def _keep(self, socket: WebSocket) -> None:
        """Keeps a node's link open: it is not steered, and what it says is passed over."""
        await socket.accept()
        beats: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(LINK_TTL_S):
                Hello.model_validate_json(await socket.receive_text())
            mark = self._mark()
            welcome = Welcome(epoch=mark.epoch, rev=mark.rev, hash=mark.hash, refuse=NOT_ACTIVE, protocol=PROTOCOL)
            await socket.send_text(welcome.model_dump_json())
            beats = asyncio.create_task(self._beat(socket))
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass
        except (WebSocketDisconnect, ValidationError, TimeoutError, KeyError):
            with contextlib.suppress(RuntimeError):  # it is closed already
                await socket.close(BAD_MESSAGE, "invalid_request")
        finally:
            if beats is not None:
                beats.cancel()

    async def _beat(self, socket: WebSocket) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the link has ended
            while True:
                await asyncio.sleep(HEARTBEAT_S)
                await socket.send_text(self._mark().model_dump_json())

    def _mark(self) -> Bookmark:
        state = self.standby.log.state if self.standby.log is not None else FoldedLog()
        return Bookmark(epoch=state.epoch, rev=state.rev, hash=state.hash)
