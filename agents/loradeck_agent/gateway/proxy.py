"""The proxy of a gateway: callers' requests, sent on to a node that serves them, and its answers back as they come.

Each node has its connections, and some are asked last.
"""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from loradeck.rules.serving.cold_queue import heeded
from loradeck.rules.serving.gateway import RETRIED, NodeHealth, followed, next_node, ranked, told_ahead
from loradeck.schemas.feedback import FEEDBACK_PATH, CallerFeedback
from loradeck.schemas.ids import Name, PointerKey
from loradeck.schemas.replica_state import AckLevel
from loradeck.schemas.table import ELSEWHERE as MOST_ELSEWHERE
from loradeck.schemas.table import TableEntry
from loradeck_agent.gateway.routes import GatewayRoutes
from loradeck_agent.router.admission import Refusal, unknown_route
from loradeck_agent.router.caller_keys import CONVERSATION
from loradeck_agent.router.callers_api import HINT, HINT_PATH, CallersApi, cut_short, refused
from loradeck_agent.router.engine_pools import COMPLETIONS, upstream_session
from loradeck_agent.router.fences import ELSEWHERE, FENCE, fence_of, fence_text
from loradeck_agent.router.handover import OF_THE_CONNECTION
from loradeck_agent.router.request_body import Asked

log = logging.getLogger(__name__)

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=600)
_IDLE_S = 30.0
"""Shorter than routers keep idle connections (75 s), so that no request meets a closing one."""

_LOOK_S = 1.0
"""How long a look at the certificate is good for."""


class NodePool:
    """One node's router and the connections to it."""

    def __init__(self, name: Name, address: str) -> None:
        self.name, self.address = name, address
        self.urls = {path: URL(f"https://{address}{path}") for path in (*COMPLETIONS, FEEDBACK_PATH, HINT_PATH)}
        self.health = NodeHealth()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S, socket_factory=_lively)
        self.session = upstream_session(connector, _TIMEOUT)
        self._idle = asyncio.Event()
        self._idle.set()

    def take(self) -> None:
        """Counts one more answer under way here."""
        self.health.take(time.monotonic())
        self._idle.clear()

    def give_back(self) -> None:
        """An answer that was under way here is over."""
        self.health.give_back()
        if not self.health.under_way:
            self._idle.set()

    def heard(self) -> None:
        """It has sent something."""
        self.health.heard(time.monotonic())

    def failed(self, why: object) -> None:
        """It could not be reached, or was lost in mid-answer."""
        self.health.failed(time.monotonic())
        if self.health.failures == 1:  # the others in a row would say the same, request by request
            log.warning("%s at %s: %s", self.name, self.address, why)

    async def retire(self) -> None:
        """Closes the connections once the answers under way are over. Nothing may be sent here any more."""
        await self._idle.wait()
        await self.session.close()


class Nodes:
    """All nodes with an address. One that stays where it is keeps its connections.

    `tls`: the gateway's own certificate, and the authority that has signed the nodes'.
    """

    def __init__(self, tls: Callable[[], ssl.SSLContext | None]) -> None:
        self.by_name: dict[Name, NodePool] = {}
        self._lost: frozenset[Name] = frozenset()
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._looked = -_LOOK_S
        self._closing: set[asyncio.Task[None]] = set()

    def set(self, addresses: Mapping[Name, str], lost: Iterable[Name] = ()) -> None:
        """Replaces the whole list; answers under way at a node that left go on to their end.

        Those that the hub has lost are asked last: it may be the hub that is cut off.
        """
        self._lost = frozenset(lost)
        before, self.by_name = self.by_name, {}
        for name, address in addresses.items():
            known = before.get(name)
            if known is not None and known.address == address:
                self.by_name[name] = before.pop(name)
            else:
                self.by_name[name] = NodePool(name, address)
        for gone in before.values():
            task = asyncio.get_running_loop().create_task(gone.retire())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def ranked(self, served: Mapping[Name, AckLevel], prompt: bytes) -> list[Name]:
        """The nodes that a request asks, in this order."""
        now, known = time.monotonic(), {name: level for name, level in served.items() if name in self.by_name}
        if len(known) < 2:
            return list(known)
        under_way, avoided = dict[Name, int](), list[Name]()
        for name in known:
            health = self.by_name[name].health
            under_way[name] = health.under_way
            if name in self._lost or health.is_avoided(now):
                avoided.append(name)
        return ranked(known, under_way, avoided, prompt)

    def told_ahead(self, served: Mapping[Name, AckLevel]) -> NodePool | None:
        """Returns the node to which a coming request is announced; None: it is announced to none."""
        now = time.monotonic()
        known = {name: level for name, level in served.items() if name in self.by_name}
        avoided = [name for name in known if name in self._lost or self.by_name[name].health.is_avoided(now)]
        name = told_ahead(known, avoided)
        return self.by_name[name] if name is not None else None

    @property
    def context(self) -> ssl.SSLContext | bool:
        """The TLS settings of connections to nodes; certificates that are renewed count from the next connection on."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked, self._context = now, self._tls()
        return self._context or True

    async def close(self) -> None:
        """Closes all connections."""
        for task in self._closing:
            task.cancel()
        for pool in self.by_name.values():
            await pool.session.close()


def _lively(address: tuple[object, ...]) -> socket.socket:
    """A socket whose peer is known to be gone within about ten seconds, where its host no longer answers."""
    made = socket.socket(address[0], address[1], address[2])  # type: ignore[arg-type]
    for option, value in ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000)
    made.setblocking(False)
    return made


PREFIX_BYTES = 256
"""By so much of their beginning, requests are sent to the same node: the same system prompt, the same cache."""

WHOLE_BYTES = 1 << 20
"""An answer of more than this is passed on as it comes, so that no node can fill a gateway's memory."""

MOST_HINTS = 64
HINT_S = 2.0
"""Most requests that are announced to nodes at a time, and the seconds that a node may take to hear of one."""

_MAY_BE_REFUSED = frozenset({401, 404, 429, 502, 503})
"""Statuses with which a node refuses what another one may answer."""


@dataclass(eq=False, kw_only=True)
class GatewayProxy(CallersApi):
    """Sends requests on. It chooses a node and never a release: the fence stays with the nodes' routers."""

    admission: GatewayRoutes
    nodes: Nodes
    counts: Counter[str] = field(default_factory=Counter, init=False)
    """Requests by what became of them: a status, or a code of the gateway's own."""
    retries: int = field(default=0, init=False)
    hints: int = field(default=0, init=False)
    """How often a node was told that a request is coming."""
    _coming: dict[PointerKey, float] = field(default_factory=dict, init=False)
    _hinting: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request."""
        response = await self._handle(request)
        self.counts[str(response.status)] += 1
        return response

    def _comes(self, request: web.BaseRequest, caller: str) -> None:
        """Announces a request whose body is yet to come to the node with its release on disk, if there is one."""
        routes = self.admission.routes_of(caller)
        if len(routes) != 1 or len(self._hinting) >= MOST_HINTS:
            return
        (key,) = routes
        node = self.nodes.told_ahead(self.admission.served(key))
        if node is None or (coming := heeded(self._coming, key, time.monotonic(), MOST_HINTS)) is None:
            return
        self._coming = coming
        self.hints += 1
        task = asyncio.create_task(self._hint(node, key, request.headers["Authorization"]))
        self._hinting.add(task)
        task.add_done_callback(self._hinting.discard)

    async def _hint(self, node: NodePool, key: PointerKey, bearer: str) -> None:
        headers = {"Authorization": bearer, HINT: "/".join(key)}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # the request itself will say
            async with (
                asyncio.timeout(HINT_S),
                node.session.post(node.urls[HINT_PATH], headers=headers, ssl=self.nodes.context),
            ):
                pass

    async def _answer(
        self, request: web.BaseRequest, path: str, asked: Asked, key: PointerKey, request_id: str
    ) -> web.StreamResponse:
        entry = self.admission.entry(key)
        if entry is None or entry.current is None:
            return refused(unknown_route(key), request_id)
        prompt = bytes.fromhex(entry.current.id) + asked.rest[:PREFIX_BYTES]
        names = self.nodes.ranked(self.admission.served(key), prompt)
        headers = {
            "Content-Type": "application/json",
            "Authorization": request.headers["Authorization"],
            "x-request-id": request_id,
        }
        if (conversation := request.headers.get(CONVERSATION)) is not None:
            headers[CONVERSATION] = conversation
        body = await request.read()  # as it came: the node judges it by the same rules
        tried, refusal = list[str](), None
        answer: web.StreamResponse | None = None
        while (name := next_node(names, tried, refusal=refusal, begun=False)) is not None:
            self.retries += bool(tried)
            tried.append(name)
            headers[FENCE] = fence_text(self.admission.fence(entry))
            node, passed, refusal = self.nodes.by_name.get(name), None, None
            if node is not None:  # it may have left meanwhile
                passed, refusal = await self._ask(request, node, path, body, headers, entry)
            if passed is not None and refusal is None:
                return passed
            if passed is not None and refusal == "not_here":
                names = self._follow(key, name, names, passed.headers.get(ELSEWHERE, ""))
            answer = passed if passed is not None else answer
        if answer is not None:
            return answer
        return refused(_no_node(key), request_id)

    async def _feedback(
        self, request: web.BaseRequest, raw: bytes, given: CallerFeedback, key: PointerKey
    ) -> web.StreamResponse:
        """Passes feedback on to a node that serves the route: whichever it is, the answer ledger vouches for it."""
        entry = self.admission.entry(key)
        if entry is None:
            return refused(unknown_route(key), given.request)
        headers = {"Content-Type": "application/json", "Authorization": request.headers["Authorization"]}
        names, tried = self.nodes.ranked(self.admission.served(key), given.request.encode()), list[str]()
        while (name := next_node(names, tried, refusal=None, begun=False)) is not None:
            tried.append(name)
            node = self.nodes.by_name.get(name)
            passed = (await self._ask(request, node, FEEDBACK_PATH, raw, headers, entry))[0] if node else None
            if passed is not None and passed.status < 500:
                return passed
        return refused(_no_node(key), given.request)

    def _follow(self, key: PointerKey, by: str, names: list[str], told: str) -> list[str]:
        """The nodes that a request asks, once one of them has said which others serve its pointer."""
        named = [name.strip() for name in told.split(",")[:MOST_ELSEWHERE]]
        self.admission.moved(key, by, [name for name in named if name in self.nodes.by_name])
        return followed(names, named, self.nodes.by_name)

    async def _ask(
        self,
        request: web.BaseRequest,
        node: NodePool,
        path: str,
        body: bytes,
        headers: dict[str, str],
        entry: TableEntry,
    ) -> tuple[web.StreamResponse | None, str | None]:
        """A node's answer, and its code where another node may well give a better one; (None, None): it gave none."""
        sent: web.StreamResponse | None = None
        node.take()
        try:
            async with node.session.post(
                node.urls[path], data=body, headers=headers, allow_redirects=False, ssl=self.nodes.context
            ) as upstream:
                node.heard()
                held = fence_of(upstream.headers.get(FENCE, ""))
                if held is not None:
                    self.admission.show(entry, held, node.name)
                shown = CIMultiDict(upstream.headers)
                for name in OF_THE_CONNECTION:
                    shown.popall(name, None)
                length = upstream.content_length
                if length is not None and length <= WHOLE_BYTES:
                    raw = await upstream.read()
                    code = _code(raw) if upstream.status in _MAY_BE_REFUSED else None
                    whole = web.Response(status=upstream.status, headers=shown, body=raw)
                    return whole, code if code in RETRIED else None
                sent = web.StreamResponse(status=upstream.status, headers=shown)
                sent.content_length = length
                try:
                    await sent.prepare(request)
                    async for chunk in upstream.content.iter_any():
                        node.heard()
                        await sent.write(chunk)
                except ConnectionError as gone:
                    if request.transport is not None and not request.transport.is_closing():
                        raise aiohttp.ClientPayloadError(str(gone)) from gone  # it was the node's
                return sent, None
        except (aiohttp.ClientError, TimeoutError) as lost:
            node.failed(lost)
            return (cut_short(request, sent), None) if sent is not None else (None, None)
        finally:
            node.give_back()


def _no_node(key: PointerKey) -> Refusal:
    return Refusal(503, "no_node", f"No node that serves {'/'.join(key)} can be reached.", "Try again.", 1)


def _code(raw: bytes) -> str | None:
    """The code of an error in the form that OpenAI's clients read; None: it is none."""
    try:
        code = json.loads(raw)["error"]["code"]
    except (ValueError, TypeError, KeyError):
        return None
    return code if isinstance(code, str) else None
