"""HTTP requests to the hub, and their possible outcomes.

An answer is a success, a problem document (`ApiError`), or nothing. Nothing is either "never sent" (`HubUnreachable`:
nothing happened) or "sent, answer lost" (`AnswerLost`: anything may have happened); the difference decides whether a
move may be reported as not made.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from functools import cache
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from loradeck.client.connect import CONNECT_S, READ_S, Endpoint, Hubs
from loradeck.client.errors import ApiError, ClientError, HubUnreachable, NotUnderstood, not_understood
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.problem import Problem
from loradeck.schemas.replica_state import NOT_ACTIVE
from loradeck.schemas.state import LeaseStatus

T = TypeVar("T")
Params = Mapping[str, str | int | float | None]

# Anything that could change the path's shape is refused here; the hub decides whether it names something.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    """The adapter that parses a type, built once: for a move's result that takes 2 ms, for a pointer's row 4."""
    return TypeAdapter(kind)


class _Bearer(httpx.Auth):
    """The token of an endpoint, as it is when a request is sent."""

    def __init__(self, point: Endpoint) -> None:
        self._point = point

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        request.headers.update(await self._point.headers())
        yield request


def http_client(point: Endpoint, *, connections: int = 8) -> httpx.AsyncClient:
    """Creates an HTTP client that sends to the hub alone. The caller closes it."""
    transport = httpx.AsyncHTTPTransport(
        uds=str(point.socket) if point.socket else None,
        verify=point.tls or False,  # without TLS there is nothing to verify, and loading authorities takes 20 ms
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        trust_env=False,
    )
    return httpx.AsyncClient(
        transport=transport,
        base_url=f"{point.base_url}/v1/",
        headers={"accept": "application/json"},
        auth=_Bearer(point),
        timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
        trust_env=False,
        follow_redirects=False,  # a redirect would carry the token elsewhere
    )


FAILOVER_S = 15.0
"""Seconds for which a call is made to one of several hubs after the other, until one is active (DESIGN 10.8)."""

PATIENCE_S = 2.0
"""Seconds after which a call that is not answered asks the other hubs whether one of them is active now."""

AROUND_S = 0.3
"""Pause after each of the hubs was asked, seconds."""


class AnswerLost(ClientError):
    """The request was sent, or may have been, and no answer came back."""


class Transport:
    """Sends requests to a hub and turns every outcome into a value or one of the client's errors.

    Of several hubs it asks the active one. What a hub that stands by refuses, or one that is away never gets, is sent
    to another: nothing was done by then, so this is safe for every request.
    """

    def __init__(self, point: Endpoint, http: httpx.AsyncClient | None = None, hubs: Hubs | None = None) -> None:
        """`hubs`: are asked for another endpoint, and for the present one when its hub does not know the token."""
        self._point, self._hubs = point, hubs
        self.http = http or http_client(point)
        self._clients = {point.where: self.http}

    @property
    def where(self) -> str:
        """The address of the hub that is asked, for people."""
        return self._point.where

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: BaseModel | Mapping[str, Any] | None = None,
        params: Params | None = None,
        extra_s: float = 0.0,
        repeatable: bool | None = None,
    ) -> bytes:
        """Sends a request and returns the body of a successful answer.

        Args:
            extra_s: seconds that the hub was asked to wait before answering.
            repeatable: send the request once more if its answer is lost; by default GET and HEAD.

        Raises: ApiError, HubUnreachable, AnswerLost: see each.
        """
        content = None
        headers = {}
        if body is not None:
            content = _json(body)
            headers["content-type"] = "application/json"
        sent = {k: v for k, v in (params or {}).items() if v is not None}
        timeout = httpx.Timeout(READ_S + extra_s, connect=CONNECT_S)
        repeats = method in ("GET", "HEAD") if repeatable is None else repeatable
        attempts = 2 if repeats else 1
        search = _Search(self._hubs)
        while True:
            attempts -= 1
            self._follow()
            try:
                answer = await self._answer(
                    self.http.request(method, path, content=content, headers=headers, params=sent, timeout=timeout)
                )
            except httpx.TransportError as error:
                trouble = self.trouble(error)
                lost = isinstance(trouble, AnswerLost)
                if await search.goes_on(self.where, trouble, sent=lost and not repeats):
                    attempts += 1
                    continue
                if lost and attempts and not isinstance(error, httpx.TimeoutException):
                    continue
                if lost and method in ("GET", "HEAD"):
                    raise HubUnreachable(trouble.title, detail=trouble.detail, fix=trouble.fix) from None
                raise search.failed(trouble) from None
            if answer.is_success:
                return answer.content
            if answer.status_code == 401 and self._has_another_token():
                attempts += 1  # nothing was done
                continue
            refusal = self.refusal(answer)
            if await search.goes_on(self.where, refusal):
                attempts += 1
                continue
            raise search.failed(refusal)

    @property
    def _hubs_beside(self) -> Hubs | None:
        """The hubs, where there are several."""
        return self._hubs if self._hubs is not None and self._hubs.several else None

    def _follow(self) -> None:
        """Uses the connections to the hub that is asked now."""
        hubs = self._hubs_beside
        if hubs is not None and hubs.asked != self.where:
            self._point = hubs.endpoint()
            self.http = self._client(self._point)

    def _client(self, point: Endpoint) -> httpx.AsyncClient:
        if point.where not in self._clients:
            self._clients[point.where] = http_client(point)
        return self._clients[point.where]

    async def _answer(self, request: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
        """The answer to a request, unless another hub turns out to be active while it is waited for.

        Raises: httpx.TransportError; ReadTimeout where the hub was succeeded: the request may have arrived.
        """
        hubs = self._hubs_beside
        if hubs is None:
            return await request
        sent = asyncio.ensure_future(request)
        try:
            while not (await asyncio.wait((sent,), timeout=PATIENCE_S))[0]:
                if await self._succeeded(hubs):
                    raise httpx.ReadTimeout("the hub does not answer, and another one is active now")
            return sent.result()
        finally:
            sent.cancel()

    async def _succeeded(self, hubs: Hubs) -> bool:
        """Tells whether another hub is active than the one that was asked; that one is asked from now on."""
        for address in hubs.addresses if hubs.asked == self.where else ():
            if address == self.where:
                continue
            try:
                answer = await self._client(hubs.endpoint(address)).get("lease", timeout=PATIENCE_S)
            except httpx.TransportError:
                continue
            if answer.is_success and self.parse(LeaseStatus, answer.content).active:
                hubs.turn_from(self.where, address)
        return hubs.asked != self.where

    def _has_another_token(self) -> bool:
        """Tells whether the token's file has changed; the next request has the new one."""
        point = self._hubs.endpoint() if self._hubs is not None else self._point
        if point.token == self._point.token:
            return False
        self._point = point
        self.http.auth = _Bearer(point)
        return True

    async def ask(self, kind: type[T] | TypeAdapter[T], method: str, path: str, **how: Any) -> T:
        """Sends a request, as `request` does, and parses the answer as `kind`.

        Raises: ApiError, HubUnreachable, NotUnderstood, AnswerLost: see each.
        """
        return self.parse(kind, await self.request(method, path, **how))

    def parse(self, kind: type[T] | TypeAdapter[T], content: bytes) -> T:
        """Parses an answer's body as `kind`. Raises: NotUnderstood: it is not the answer of a hub of this version."""
        adapter = kind if isinstance(kind, TypeAdapter) else _adapter(kind)  # type: ignore[arg-type]  # a type can be hashed
        try:
            return adapter.validate_json(content)
        except ValidationError as error:
            raise not_understood("the hub's answer", self.where, first_wrong(error, root="the answer")) from None

    async def pieces(self, path: str, start: int) -> AsyncIterator[bytes]:
        """Yields the bytes of a GET from `start` on, as they arrive.

        Raises:
            ApiError, HubUnreachable: the hub refused, or was not reached.
            AnswerLost: the connection broke; ask again from the number of bytes received.
        """
        self._follow()
        headers = {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
        try:
            async with self.http.stream("GET", path, headers=headers) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise self.refusal(answer)
                if start and answer.status_code != 206:
                    raise NotUnderstood(
                        "the hub sent the whole blob instead of the requested part",
                        detail=self.where,
                        fix="start again",
                    )
                async for piece in answer.aiter_raw():
                    yield piece
        except httpx.TransportError as error:
            raise self.trouble(error) from None

    def refusal(self, answer: httpx.Response) -> ClientError:
        """The error for an answer that is no success. Its body must have been read."""
        media_type = answer.headers.get("content-type", "")
        return refusal(answer.status_code, media_type, answer.content, where=self.where)

    def trouble(self, error: httpx.TransportError) -> HubUnreachable | AnswerLost:
        """The error for an exception of the connection: nothing sent, or the answer lost."""
        what = " ".join(str(error).split()) or type(error).__name__
        where = f"{self.where}: {what}"
        if not isinstance(error, _NEVER_SENT):
            return AnswerLost("the connection to the hub broke before its answer came", detail=where)
        if "CERTIFICATE_VERIFY_FAILED" in what or "certificate" in what.lower():
            fix = "the hub's certificate is not trusted: set ca_file in the context, or correct the address"
        elif "WRONG_VERSION_NUMBER" in what or "record layer failure" in what:
            fix = "what listens there speaks no TLS: write http:// (only on loopback), or give the hub --tls-cert"
        elif self._point.socket is not None and isinstance(error, httpx.ConnectError):
            fix = "start a hub here with `loradeck hub`, or name one with --hub or --context"
        else:
            fix = "check that the hub runs and this machine reaches it; nodes keep serving as the hub last decided"
        return HubUnreachable("the hub cannot be reached; nothing was sent", detail=where, fix=fix)

    async def aclose(self) -> None:
        """Closes the connections."""
        for client in {self.http, *self._clients.values()}:
            await client.aclose()


class _Search:
    """The search of one call for the active one of several hubs."""

    def __init__(self, hubs: Hubs | None) -> None:
        self._hubs = hubs
        self._until = time.monotonic() + FAILOVER_S
        self._said: dict[str, str] = {}

    async def goes_on(self, where: str, trouble: ClientError, *, sent: bool = False) -> bool:
        """Turns to another hub, if this one is away or stands by. Returns whether the request is sent there.

        `sent`: the request may have arrived, so that only its sender knows whether it may be sent again.
        """
        hubs = self._hubs
        standby = isinstance(trouble, ApiError) and trouble.code == NOT_ACTIVE
        if hubs is None or not hubs.several or not (standby or isinstance(trouble, HubUnreachable | AnswerLost)):
            return False
        named = trouble.active if isinstance(trouble, ApiError) else None
        hubs.turn_from(where, named)
        again, self._said[where] = where in self._said, trouble.detail if standby else trouble.title
        if sent or time.monotonic() > self._until:
            return False
        if again or len(self._said) == len(hubs.addresses):
            await asyncio.sleep(AROUND_S)
        return True

    def failed(self, trouble: ClientError) -> ClientError:
        """The error of a call that found no active hub, or the trouble itself."""
        if len(self._said) < 2 or isinstance(trouble, AnswerLost):
            return trouble
        return HubUnreachable(
            f"none of the hubs was active for {FAILOVER_S:.0f} s; nothing was sent",
            detail="; ".join(f"{where}: {why}" for where, why in self._said.items()),
            fix="see `loradeck hub status` on their hosts; nodes keep serving as the last active one decided",
        )


def refusal(status: int, media_type: str, content: bytes, *, where: str) -> ClientError:
    """The error for an answer that is no success: the hub's refusal, or NotUnderstood if no hub answered."""
    try:
        return ApiError(Problem.model_validate_json(content))
    except ValidationError:
        return NotUnderstood(
            f"the answer is not from a Loradeck hub (HTTP {status}, {media_type or 'no type'})",
            detail=where,
            fix="check the address; a proxy or another program may be listening there",
        )


def segment(name: str) -> str:
    """Quotes a name as one segment of a path. Raises: ClientError: it cannot be one (nothing was sent)."""
    if not _SEGMENT.fullmatch(name):
        raise ClientError(f"{name!r} is not a name", detail="use lower-case letters, digits, '.', '_' and '-'")
    return quote(name, safe="")


def _json(body: BaseModel | Mapping[str, Any]) -> bytes:
    if isinstance(body, BaseModel):
        return body.model_dump_json().encode()
    import json

    return json.dumps(body).encode()
