"""The router before this one: it is asked to hand over, and then ends what it has admitted while this one serves.

Whoever holds the table's lock has the right to admit. The one that drains holds another lock, by which it is found, and
answers on its old control socket under another name.
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

from pydantic import ValidationError

from loradeck.schemas.counts import Traffic
from loradeck.schemas.ids import PointerKey
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.http_client import Endpoint, HttpClient, Reply, problem_of
from loradeck_agent.host.state_folder import holder_of
from loradeck_agent.router.wire import AllAnswering, Cut, Cuts, HandOver, RouterStats

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
        routes = tuple(Cut(tenant=tenant, route=route, stays=kept) for (tenant, route), kept in stays.items())
        try:
            reply = await self._call(
                "POST", "/control/drain/cut", Cuts(routes=routes).model_dump_json().encode(), CUT_S
            )
            answering = AllAnswering.model_validate_json(reply.body).routes
        except (AgentError, ValidationError) as error:
            await self.end(str(error))
            return {}
        return {(one.tenant, one.route): one.releases for one in answering}

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
