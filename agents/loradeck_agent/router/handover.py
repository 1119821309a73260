"""The routers before and after this one: one is asked to hand over, and then ends what it has admitted.

Whoever holds the table's lock has the right to admit. The one that drains holds another lock, by which it is found, and
answers on its old control socket under another name.

A caller's connection outlives the right to admit, and a request that comes over it must neither be admitted by the one
that drains nor fail. So it goes to the router that has the right now, over a Unix socket of their user's own, and the
answer comes back as that router gives it. The connection ends with the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from aiohttp import web
from pydantic import ValidationError

from loradeck.schemas.counts import Traffic
from loradeck.schemas.ids import PointerKey
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.http_client import Endpoint, HttpClient, Reply, problem_of
from loradeck_agent.host.state_folder import holder_of
from loradeck_agent.router.wire import ByRoute, HandOver, RouterStats

log = logging.getLogger(__name__)

DRAIN_LOCK = "drain.lock"
DRAIN_SOCKET = "drain.sock"

HAND_OVER_S = 5.0
"""How long a router may take to hand over."""

CUT_S = 2.0
"""How long one that drains may take to cut answers: it is ended then, and they with it."""

_STATS_S = 1.0


async def ask_to_hand_over(folder: Path) -> None:
    """Asks the router of this folder for the right to admit. Returns when it has given it up, or does not answer.

    Raises: AgentError: it does not hand over, with its reason.
    """
    asked = HandOver(until_ns=time.monotonic_ns() + int(HAND_OVER_S * 1e9))
    http = HttpClient(Endpoint(unix=folder / "router.sock"))
    try:
        reply = await http.call(
            "POST", "/control/hand-over", asked.model_dump_json().encode(), timeout=HAND_OVER_S + 1.0
        )
    except Unreachable as gone:
        log.warning("the router before this one does not answer: %s", gone)  # whether it is gone, its lock says
        return
    finally:
        http.close()
    if reply.status != 200:
        raise problem_of(reply, "the router that runs")


class Predecessor:
    """A router that drains. Its end is noticed as soon as it comes."""

    def __init__(self, folder: Path, pid: int, watch: int) -> None:
        self.pid = pid
        self.ended = asyncio.Event()
        self._watch = watch
        self._http = HttpClient(Endpoint(unix=folder / DRAIN_SOCKET))
        self._streams: tuple[Traffic, ...] = ()
        asyncio.get_running_loop().add_reader(watch, self._end)

    @classmethod
    def find(cls, folder: Path) -> Predecessor | None:
        """The one that drains in this folder; None where none does."""
        pid = holder_of(folder / DRAIN_LOCK)
        if pid is None:
            return None
        try:
            watch = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        if holder_of(folder / DRAIN_LOCK) == pid:
            return cls(folder, pid, watch)
        os.close(watch)
        return None

    async def cut(self, stays: Mapping[PointerKey, tuple[str, ...]]) -> dict[PointerKey, tuple[str, ...]]:
        """Has it cut these routes' answers but for those of the releases that stay. One that does not is ended.

        Returns the releases that it still answers with, by route.
        """
        body = ByRoute(routes=tuple(stays.items())).model_dump_json().encode()
        try:
            reply = await self._call("POST", "/control/drain/cut", body, CUT_S)
            return dict(ByRoute.model_validate_json(reply.body).routes)
        except (AgentError, ValidationError) as error:
            await self.end(str(error))
            return {}

    async def end(self, why: str) -> None:
        """Ends it, and its answers with it."""
        if not self.ended.is_set():
            log.error("the router that drains (pid %d) does not cut and is ended: %s", self.pid, why)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._watch, signal.SIGKILL)
            await self.ended.wait()

    async def streams(self) -> tuple[Traffic, ...]:
        """Counters of its answers under way, as far as it last said them; none of them once it has ended."""
        if self.ended.is_set():
            return ()
        try:
            reply = await self._call("GET", "/control/drain/stats", None, _STATS_S)
            self._streams = RouterStats.model_validate_json(reply.body).traffic
        except AgentError as error:
            log.debug("no figures of the router that drains: %s", error)
        return () if self.ended.is_set() else self._streams

    def close(self) -> None:
        """Forgets it. It goes on."""
        self._http.close()
        if not self.ended.is_set():
            self._end()

    async def _call(self, method: str, path: str, body: bytes | None, timeout: float) -> Reply:
        reply = await self._http.call(method, path, body, timeout=timeout)
        if reply.status != 200:
            raise problem_of(reply, "the router that drains")
        return reply

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._watch)
        os.close(self._watch)
        self.ended.set()


PATIENCE_S = 30.0
"""How long it may take until a router is there that answers: one that has crashed is started again."""

_RETRY_S = 0.05
OF_THE_CONNECTION = {"connection", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
OF_THE_CONNECTION |= {"content-encoding", "content-length"}
"""Headers that are not passed on: they are about one connection, or about a body that was read."""


class SuccessorLost(Exception):
    """The router after this one does not answer."""


class Successor:
    """Calls to the router after this one, which takes them on the socket at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session: aiohttp.ClientSession | None = None

    async def answer(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        """The successor's answer to a request of which the body was read.

        Raises: SuccessorLost: it has none, and nothing was sent to the caller.
        """
        session = self._session = self._session or aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=str(self.path), limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in OF_THE_CONNECTION]
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                async with session.request(
                    request.method, f"http://router{request.rel_url}", headers=headers, data=body, allow_redirects=False
                ) as answer:
                    return await _passed(request, answer)
            except aiohttp.ClientConnectorError as error:  # nothing was sent
                if time.monotonic() > until:
                    raise SuccessorLost(str(error)) from error
                await asyncio.sleep(_RETRY_S)
            except aiohttp.ClientError as error:
                raise SuccessorLost(str(error)) from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()


async def _passed(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in OF_THE_CONNECTION}
    if answer.content_length is not None:
        return web.Response(status=answer.status, headers=headers, body=await answer.read())
    passed = web.StreamResponse(status=answer.status, headers=headers)
    passed.force_close()
    await passed.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await passed.write(chunk)
    except aiohttp.ClientError as error:
        log.error("the router after this one was lost in mid-answer: %s", error)
        if request.transport is not None:
            request.transport.close()  # without the ending that a client takes for success
    return passed
