"""The callers' API: who asks, for which route, and within which limits. How it is answered is its subclasses' part.

OpenAI's completions, by tenant. Only the paths named here are reachable. Who has not shown a tenant's key gets refusals
and `/healthz` from `strangers`.

A hint of a gateway says that a request is coming, so that a node begins early to load a release that is on its disk
alone. It is believed of a gateway, by the certificate that its connection has proven, and about routes that the key of
the coming request may ask for. A caller's own counts for nothing: that path is none that it knows of.
"""

import asyncio
import functools
import logging
import re
import resource
import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from pydantic import ValidationError

from loradeck.rules.data.feedback import flaw_of
from loradeck.rules.serving.request_ids import RANDOM_BYTES
from loradeck.rules.serving.request_ids import request_id as new_id
from loradeck.schemas.feedback import BODY_BYTES, FEEDBACK_PATH, CallerFeedback
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.membership import GATEWAY_NAME
from loradeck.schemas.table import BODY_CAP
from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.connections import Connections, Owner
from loradeck.strangers.failed_logins import FailedLogins
from loradeck.strangers.protocol import Answer, BadHead, RequestHead, StrangerLimits, Strangers, address_of, answer
from loradeck_agent.host.body_reader import LARGE, BodyReader, BodyUnread
from loradeck_agent.router.admission import DEFAULT_ROUTE, Refusal, unknown_route
from loradeck_agent.router.caller_keys import CallerRoutes, bearer_of, caller_digest
from loradeck_agent.router.caller_limits import CallerLimits
from loradeck_agent.router.engine_pools import COMPLETIONS
from loradeck_agent.router.fences import ELSEWHERE
from loradeck_agent.router.request_body import Asked, Unfit, asked_of, parse
from loradeck_agent.router.trace import now_ms

log = logging.getLogger(__name__)

BODY_TIMEOUT_S = 60.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


BAD_KEY = Refusal(
    401, "bad_key", "No tenant here knows this key.", "Send `Authorization: Bearer` with your tenant's key."
)


@dataclass(eq=False, kw_only=True)
class CallersApi:
    """Handles callers' requests until it is known who asks, for which route, and that the caller may."""

    admission: CallerRoutes
    bodies: BodyReader
    limits: CallerLimits

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, method = request.path, request.method
        if method == "POST" and path in COMPLETIONS:
            return await self._complete(request, path)
        if method == "POST" and path == FEEDBACK_PATH:
            return await self._take_feedback(request)
        if method == "GET" and path == "/v1/models":
            return self._models(request)
        if method == "GET" and path == "/healthz":
            return web.json_response({"status": "ok"})
        return refused(Refusal(404, "not_found", f"{method} {path} is not served here."))

    def _tenants(self, request: web.BaseRequest) -> set[str] | Refusal:
        bearer = bearer_of(request.headers)
        tenants = self.admission.tenants_of(bearer) if bearer else None
        return tenants or BAD_KEY

    def _models(self, request: web.BaseRequest) -> web.Response:
        tenants = self._tenants(request)
        if isinstance(tenants, Refusal):
            return refused(tenants)
        names = self.admission.models(tenants)
        data = [{"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]} for name in names]
        return web.json_response({"object": "list", "data": data})

    async def _take_feedback(self, request: web.BaseRequest) -> web.StreamResponse:
        tenants = self._tenants(request)
        if isinstance(tenants, Refusal):
            return refused(tenants)
        caller = caller_digest(bearer_of(request.headers))
        with self.limits.request(caller, self.admission.callers_of(caller), _size(request)) as refusal:
            raw = refusal or await body_of(request)
            if isinstance(raw, Refusal):
                return refused(raw)
            try:
                if len(raw) > BODY_BYTES:
                    raise ValueError(f"it has more than {BODY_BYTES} bytes")
                given = CallerFeedback.model_validate_json(raw)
                flaw = flaw_of(given)
            except ValueError as error:  # pydantic's is one
                flaw = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
            if flaw is not None:
                fix = "Send `request`, `model`, `kind`, and its `value` or `text`."
                return refused(Refusal(400, "invalid_feedback", f"This is no feedback: {flaw}.", fix))
            key = pointer_of(given.model)
            if key[0] not in tenants:
                return refused(unknown_route(key), given.request)
            if (refusal := self.limits.spend(caller, key, self.admission.callers(key), 0)) is not None:
                return refused(refusal, given.request)
            return await self._feedback(request, raw, given, key)

    async def _feedback(
        self, request: web.BaseRequest, raw: bytes, given: CallerFeedback, key: PointerKey
    ) -> web.StreamResponse:
        """Keeps feedback of a caller that may ask for the route of this key, or passes it on. `raw`: as it came."""
        raise NotImplementedError

    async def _complete(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        tenants = self._tenants(request)  # before the body: strangers' bytes are not read
        if isinstance(tenants, Refusal):
            return refused(tenants)
        caller = caller_digest(bearer_of(request.headers))
        with self.limits.request(caller, self.admission.callers_of(caller), _size(request)) as refusal:
            if refusal is None and not request.content.is_eof():
                self._comes(request, caller)
            asked = refusal or await self._asked(request)
            if isinstance(asked, Refusal):
                return refused(asked)
            key = pointer_of(asked.model)
            given = request.headers.get("x-request-id", "")
            request_id = given if _REQUEST_ID.fullmatch(given) else new_id(now_ms(), secrets.token_bytes(RANDOM_BYTES))
            if key[0] not in tenants:  # what other tenants there are is none of a caller's business
                return refused(unknown_route(key), request_id)
            if (refusal := self._forbidden(caller, key, asked)) is not None:
                return refused(refusal, request_id)
            return await self._answer(request, path, asked, key, request_id)

    def _comes(self, request: web.BaseRequest, caller: str) -> None:
        """Is called when a caller's request has begun whose body is yet to come. `caller`: digest of its key."""

    async def _answer(
        self, request: web.BaseRequest, path: str, asked: Asked, key: PointerKey, request_id: str
    ) -> web.StreamResponse:
        """Answers a request whose caller may ask for the route of this key."""
        raise NotImplementedError

    def _forbidden(self, caller: str, key: PointerKey, asked: Asked) -> Refusal | None:
        """Why a route does not take a request from its caller: for what it holds, or for how many came before it."""
        callers = self.admission.callers(key)
        allowed = callers.parameters
        unlisted = next((name for name in asked.unlisted if name not in allowed), None) if asked.unlisted else None
        if unlisted is not None:
            message, fix = (
                f"The parameter `{unlisted}` does not pass here.",
                "Leave it out, or have the route allow it.",
            )
            return Refusal(400, "unknown_parameter", message, fix, param=unlisted)
        return self.limits.spend(caller, key, callers, asked.tokens)

    async def _asked(self, request: web.BaseRequest) -> Asked | Refusal:
        """The request's body, read: a JSON object with a `model`."""
        raw = await body_of(request)
        if isinstance(raw, Refusal):
            return raw
        try:
            asked = parse(raw) if len(raw) < LARGE else asked_of(await self.bodies.read(raw))
        except BodyUnread:
            return Refusal(400, "body_unreadable", "The body takes too long to read.", "Send a simpler one.")
        return Refusal(400, asked.code, asked.message, asked.fix) if isinstance(asked, Unfit) else asked


def _size(request: web.BaseRequest) -> int:
    """The most bytes that a request's body may turn out to have."""
    if request.content_length is None or "Content-Encoding" in request.headers:
        return BODY_CAP
    return min(request.content_length, BODY_CAP)


async def body_of(request: web.BaseRequest) -> bytes | Refusal:
    """The request's body, as it came."""
    try:
        if request.content.is_eof():  # it came with the head
            return await request.read()
        async with asyncio.timeout(BODY_TIMEOUT_S):
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return Refusal(413, "body_too_large", f"A request's body may have {BODY_CAP} bytes.", "Send a shorter one.")
    except TimeoutError:
        return Refusal(408, "body_too_slow", f"The body did not arrive within {BODY_TIMEOUT_S:.0f} s.", "Try again.")


def refused(refusal: Refusal, request_id: str | None = None, headers: dict[str, str] | None = None) -> web.Response:
    """An error in the form that OpenAI's clients read."""
    extra = {"Server": "loradeck"} | (headers or {})
    if request_id is not None:
        extra["x-request-id"] = request_id
    if refusal.retry_after_s is not None:
        extra["Retry-After"] = str(refusal.retry_after_s)
    if refusal.elsewhere:
        extra[ELSEWHERE] = ", ".join(refusal.elsewhere)
    if refusal.status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    return web.json_response(
        error_body(refusal.code, f"{refusal.message} {refusal.fix}".strip(), refusal.param),
        status=refusal.status,
        headers=extra,
    )


def error_body(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": code, "param": param, "code": code}}


def cut_short(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Closes the connection, without the ending of a stream that a client takes for success."""
    if request.transport is not None:
        request.transport.close()
    return response


class _Server(web.Server):
    """A server that says which of its connections have a request under way, and which are over."""

    def __init__(
        self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], connections: Connections
    ) -> None:
        async def counted(request: web.BaseRequest) -> web.StreamResponse:
            is_open = True

            def begin() -> None:
                if is_open:
                    connections.begins(request.protocol)

            request.content.on_eof(begin)  # one that has not come as a whole may be ended to make room
            try:
                return await handle(request)
            finally:
                is_open = False
                connections.rests(request.protocol)

        super().__init__(counted, request_factory=_request, handler_cancellation=True, access_log=None)
        self._counted = connections

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Counts a connection no more."""
        self._counted.leaves(handler)
        super().connection_lost(handler, exc)


def server_of(
    handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], connections: Connections
) -> web.Server:
    """The server of callers who have shown a key."""
    return _Server(handle, connections)


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """Makes a request as aiohttp does, with our cap on its body."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_CAP)


# ---- hints of gateways -----------------------------------------------------------------------------------------

HINT_PATH = "/v1/loradeck/coming"
HINT = "x-loradeck-coming"
"""The header of a hint, which has no body: TENANT/ROUTE."""


def is_gateway(tls: Any) -> bool:
    """Tells whether a connection's certificate is a gateway's. `tls`: its `ssl.SSLObject`; None: it has no TLS."""
    shown = tls.getpeercert() if tls is not None else None
    return ("DNS", GATEWAY_NAME) in shown.get("subjectAltName", ()) if shown else False


def pointer_of(model: str) -> PointerKey:
    """The pointer that a model's name stands for: TENANT/ROUTE, or a tenant's default route."""
    tenant, _, route = model.partition("/")
    return tenant, route or DEFAULT_ROUTE


# ---- strangers -------------------------------------------------------------------------------------------------

_ALIVE = answer(200, "application/json", b'{"status": "ok"}', {"Server": "loradeck"})


def strangers(
    tenants_of: Callable[[str], Collection[str] | None],
    connections: Connections,
    limits: StrangerLimits | None = None,
    tls: ServerCertificate | None = None,
) -> Strangers:
    """The strangers of a router: whoever shows a key that a tenant here knows is none.

    Args:
        tenants_of: the tenants that may use a key; None: nobody knows it.
        connections: those that have shown a key.
        limits: None: by how many files the process may open. Half are left for the engines' connections.
    """
    failed_logins = FailedLogins(asyncio.get_running_loop().time, log.warning)
    if limits is None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limits = StrangerLimits.under(files, files // 2)

    def judge(head: RequestHead, transport: asyncio.BaseTransport) -> Answer | Owner:
        tenants = tenants_of(head.bearer) if head.bearer is not None else None
        if head.bearer is not None and tenants is not None:
            return Owner(min(tenants, default=""), caller_digest(head.bearer))
        if head.method == "GET" and head.target == "/healthz":
            return _ALIVE
        wait = failed_logins.failed(address_of(transport), head.target[:200])
        return _answer(BAD_KEY if wait is None else _too_many(wait))

    def reject(bad: BadHead) -> Answer:
        return _answer(Refusal(bad.status, bad.code, f"{bad.title}.".capitalize(), f"{bad.fix}.".capitalize()))

    return Strangers(limits, judge=judge, reject=reject, tls=tls, connections=connections)


def _too_many(wait: int) -> Refusal:
    return Refusal(
        429,
        "too_many_failed_logins",
        "Too many requests from this address had no key that a tenant here knows.",
        "Send your tenant's key; a request that has it is served all the same.",
        wait,
    )


@functools.cache
def _answer(refusal: Refusal) -> Answer:
    response = refused(refusal)
    headers = {name: value for name, value in response.headers.items() if not name.startswith("Content-")}
    assert isinstance(response.body, bytes)
    return answer(response.status, "application/json", response.body, headers)
