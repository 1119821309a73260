"""The engines of this node, each with its own pool of connections, and room there for what no caller waits for."""

import asyncio
import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from loradeck.rules.quality.sampling import may_ask_again
from loradeck.schemas.manifest import Form
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.host.secret_file import read_secret
from loradeck_agent.router.wire import EngineAt

log = logging.getLogger(__name__)

_SMALL = 64 * 1024
"""Bytes of a body that is sent at once, without a look at whether the connection takes them."""


class _AsGiven(aiohttp.ClientRequest):
    """A request with the headers that it is given, and none of a browser's.

    `skip_auto_headers` does the same, and copies the headers twice for each request.
    """

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        """Adds none."""

    if sys.version_info < (3, 12):
        # aiohttp sends each body from a task, which begins at once where Python lets it. Here it takes a turn of the
        # loop, and a twentieth of what a request costs.
        async def send(self, conn: Connection) -> aiohttp.ClientResponse:
            """Sends the head, and a small body with it."""
            body, protocol = getattr(self, "_body", None), conn.protocol  # an aiohttp without it sends bodies itself
            size = body.size if isinstance(body, aiohttp.BytesPayload) else None
            if size is None or size > _SMALL or protocol is None or protocol.writing_paused:
                return await super().send(conn)
            assert isinstance(body, aiohttp.BytesPayload)
            self._body = None
            response = await super().send(conn)
            if protocol.transport is not None:  # else it is lost, and the answer does not come
                protocol.transport.write(await body.as_bytes())
            return response


def upstream_session(
    connector: aiohttp.BaseConnector, timeout: aiohttp.ClientTimeout, headers: Mapping[str, str] | None = None
) -> aiohttp.ClientSession:
    """A session that keeps no cookies and passes bodies as they come. `headers`: sent with every request."""
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        request_class=_AsGiven,
    )


_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=600)
"""An engine that has sent nothing for ten minutes is not going to."""

_IDLE_S = 3.0
"""Shorter than any engine's own keep-alive (uvicorn: 5 s), so that no request meets a closing connection."""


COMPLETIONS = frozenset({"/v1/chat/completions", "/v1/completions"})
"""The only paths of an engine that callers reach. Besides, the router reads its metrics."""


class EnginePool:
    """One engine and the connections to it. `open`: callers' answers under way; `again`: those that nobody gets."""

    __slots__ = ("_idle", "again", "at", "metrics", "open", "session", "silent_until", "urls")

    def __init__(self, at: EngineAt) -> None:
        self.at = at
        self.open = 0
        self.again = 0
        self.silent_until = 0.0
        """Until when it counts as an engine that does not answer, by the monotonic clock."""
        self._idle = asyncio.Event()
        self._idle.set()
        origin = "http://engine" if at.socket else at.url
        self.urls = {path: URL(f"{origin}{path}") for path in COMPLETIONS}
        self.metrics = URL(f"{origin}/metrics/")
        self.session = upstream_session(_connector(at), _TIMEOUT, _authorization(at))

    @property
    def name(self) -> str:
        """Name of the replica, as the hub knows it."""
        return self.at.replica

    def take(self) -> None:
        """Counts one more answer under way here."""
        self.open += 1
        self._idle.clear()

    def give_back(self) -> None:
        """An answer that was under way here is over."""
        self.open -= 1
        if not self.open:
            self._idle.set()

    async def retire(self) -> None:
        """Closes the connections once the answers under way are over. Nothing may be sent here any more."""
        await self._idle.wait()
        await self.session.close()

    def runs(self, base: str) -> bool:
        """Tells whether the engine runs the base with this digest."""
        return self.at.base == base

    def serves(self, ref: ReleaseRef) -> bool:
        """Tells whether a request for this release can be answered now, by these weights and no others."""
        if not self.runs(ref.release.served_base):
            return False
        return ref.release.form is Form.BASE or ref.id in self.at.ready

    def model_name(self, ref: ReleaseRef) -> str:
        """The model that this engine is asked for to get an answer of the release."""
        return ref.engine_name or self.at.base_name


def _connector(at: EngineAt) -> aiohttp.BaseConnector:
    if at.socket:
        return aiohttp.UnixConnector(path=at.socket, limit=0, keepalive_timeout=_IDLE_S)
    return aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S)


def _authorization(at: EngineAt) -> dict[str, str]:
    """The engine's own key. A caller's is not passed on: the router has already judged it."""
    if not at.key:
        return {}
    try:
        return {"Authorization": f"Bearer {read_secret(Path(at.key), 'key', 'correct the file')}"}
    except ConfigError as error:
        log.error("%s will refuse every request: %s", at.replica, error)
        return {}


class Replicas:
    """All engines of the node. An engine that stays where it is keeps its connections."""

    def __init__(self) -> None:
        self._by_name: dict[str, EnginePool] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[EnginePool]:
        return iter(self._by_name.values())

    def set(self, engines: Iterable[EngineAt]) -> None:
        """Replaces the whole list; answers under way on an engine that left go on to their end."""
        before, self._by_name = self._by_name, {}
        for at in engines:
            known = before.pop(at.replica, None)
            if known is not None and _same_place(known.at, at):
                known.at = at
                self._by_name[at.replica] = known
            else:
                if known is not None:
                    self._retire(known)
                self._by_name[at.replica] = EnginePool(at)
        for gone in before.values():
            self._retire(gone)

    def get(self, name: str) -> EnginePool | None:
        """The engine of this replica; None where there is none."""
        return self._by_name.get(name)

    async def close(self) -> None:
        """Closes all connections, and waits for answers under way on engines that were replaced."""
        await asyncio.gather(*self._closing, *(replica.session.close() for replica in self))

    def _retire(self, replica: EnginePool) -> None:
        task = asyncio.get_running_loop().create_task(replica.retire())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _same_place(before: EngineAt, now: EngineAt) -> bool:
    return (before.socket, before.url, before.key) == (now.socket, now.url, now.key)


# ---- room for what no caller waits for: asking again, and judging ----------------------------------------------

_AGAIN_S = 0.1
_READ_S = 0.25  # how long the number of requests that wait in an engine holds
_METRICS_S = 2.0
_WAITING = re.compile(r"^vllm:num_requests_waiting(?:\{[^}\n]*\})? ([0-9.e+]+)\s*$", re.MULTILINE)


@dataclass(eq=False)
class EngineRoom:
    """Finds room on engines, one after the other on each. Callers come first."""

    _turns: dict[str, asyncio.Lock] = field(default_factory=dict, init=False)
    _waiting: dict[str, tuple[float, int | None]] = field(default_factory=dict, init=False)

    async def take(self, replica: EnginePool, *, until_s: float, share: float) -> bool:
        """Waits for room on an engine, and counts one more answer there that nobody gets: the caller ends it.

        Args:
            until_s: until when it is waited for, by the monotonic clock.
            share: as in `may_ask_again`.

        Returns: whether there was room in time.
        """
        async with self._turns.setdefault(replica.name, asyncio.Lock()):
            while not may_ask_again(replica.open, replica.again, await self._waiting_in(replica), share=share):
                if time.monotonic() >= until_s:
                    return False
                await asyncio.sleep(_AGAIN_S)
            replica.again += 1
            return True

    async def _waiting_in(self, replica: EnginePool) -> int | None:
        """The requests that wait in an engine, by its metrics; None: it does not say."""
        read_at, waiting = self._waiting.get(replica.name, (0.0, None))
        if time.monotonic() - read_at < _READ_S:
            return waiting
        try:
            timeout = aiohttp.ClientTimeout(total=_METRICS_S)
            async with replica.session.get(replica.metrics, allow_redirects=False, timeout=timeout) as answer:
                found = _WAITING.findall(await answer.text()) if answer.status == 200 else []
        except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
            found = []
        waiting = round(sum(map(float, found))) if found else None
        self._waiting[replica.name] = (time.monotonic(), waiting)
        return waiting
