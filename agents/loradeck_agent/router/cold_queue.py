"""Requests that wait for their release to be loaded, and the loads that the agent is told of.

Who may wait, and in which order releases are loaded, is decided by `loradeck.rules.serving.cold_queue`. Who answers a
request that has waited is decided by `Admission.admit`, as for any other.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field

from loradeck.rules.serving import cold_queue as rules
from loradeck.rules.serving.cold_queue import ColdRoute, Turns
from loradeck.schemas.counts import ColdFigures
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import ColdQueueLimits
from loradeck_agent.router.wire import ColdAsk, ColdRelease, WantedLoads

POLL_S = 2.0
"""How long the agent waits at most to be told what is wanted. It says as often which loads fail."""

SILENT_S = 10.0
"""An agent that has not asked for so long loads nothing: it is gone, or stopped. Its restart takes less."""

_MINUTE_S = 60.0
_KEPT = 10_000
"""Most cold starts that are kept to count those of the last minute."""


@dataclass(eq=False, slots=True)
class _Route:
    """A pointer that requests wait for, the oldest first. `named_at`: when the agent was told to load its release."""

    since: float
    waiting: dict[asyncio.Future[bool], None] = field(default_factory=dict)
    named_at: float | None = None


class ColdQueue:
    """The requests that wait at one router."""

    def __init__(self, limits: ColdQueueLimits | None = None) -> None:
        self._limits = limits or ColdQueueLimits()
        self.awaited: dict[PointerKey, str] = {}
        """Pointers whose release is yet to be loaded, with its id. A request for any other pointer does not wait."""
        self._routes: dict[PointerKey, _Route] = {}
        self._of_tenant: dict[str, dict[asyncio.Future[bool], PointerKey]] = {}
        self._turns = Turns()
        self._failing: frozenset[str] = frozenset()
        self._full: frozenset[str] = frozenset()
        self._load_s: float | None = None
        self._ended = False
        self._heard_at: float | None = None
        """When the agent asked last; None: nobody has waited yet, and it has not asked."""
        self._named: tuple[ColdRelease, ...] = ()
        self._coming: dict[PointerKey, float] = {}
        self._hinted: tuple[ColdRelease, ...] = ()
        self._times = 0
        self._renamed = asyncio.Event()
        self._cold = self._refused = self._hints = 0
        self._minute: deque[float] = deque(maxlen=_KEPT)

    # ---- callers -------------------------------------------------------------------------------------------

    async def wait(self, key: PointerKey) -> int | None:
        """Waits until a pointer's release is loaded, or for as long as requests may.

        Returns:
            None: the request is to be admitted now, as the pointer's entry and its gap policy say. Otherwise it may
            not wait, or in vain (`is_full`), and its caller may try again after so many seconds.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.seconds
        while self._may_wait(key) and (left := until - loop.time()) > 0:
            if self.is_full(key):
                self._refused += 1
                return rules.LONGEST_RETRY_S
            waiting = {tenant: len(futures) for tenant, futures in self._of_tenant.items()}
            place = rules.place(waiting, key[0], self._limits)
            if place.displaces is not None:
                newest, its_key = next(reversed(self._of_tenant[place.displaces].items()))
                self._leave(its_key, newest, goes_on=False)
            if not (place.waits and await self._wait(key, left)):
                self._refused += 1
                return rules.retry_after_s(len(self._routes), self._load_s)
        if key not in self.awaited:
            self._cold += 1
            self._minute.append(loop.time())
        return None

    def is_full(self, key: PointerKey) -> bool:
        """Tells whether a pointer's release gets no slot here, however long a request waits."""
        return self.awaited.get(key) in self._full

    def _may_wait(self, key: PointerKey) -> bool:
        release, now = self.awaited.get(key), asyncio.get_running_loop().time()
        if self._heard_at is None:
            self._heard_at = now
        silent_s = now - self._heard_at
        return release is not None and release not in self._failing and not self._ended and silent_s < SILENT_S

    def hint(self, key: PointerKey) -> None:
        """Takes a gateway's word that a request for a pointer is coming: its release is then wanted for a while.

        It is loaded after those that requests wait for, and turns out nothing that answers somebody.
        """
        if key in self._routes or not self._may_wait(key) or self.is_full(key):
            return
        coming = rules.heeded(self._coming, key, asyncio.get_running_loop().time())
        if coming is not None:
            self._coming = coming
            self._hints += 1
            self._name()

    async def _wait(self, key: PointerKey, seconds: float) -> bool:
        """Waits for a load. False: another tenant's request has taken the place of this one."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._of_tenant.setdefault(key[0], {})[future] = key
        if (route := self._routes.get(key)) is None:
            route = self._routes[key] = _Route(loop.time())
            self._name()
        route.waiting[future] = None
        try:
            done, _ = await asyncio.wait([future], timeout=seconds)
        finally:
            self._leave(key, future)
        if not done:
            self._waited_in_vain(key)
        return not done or future.result()

    def _waited_in_vain(self, key: PointerKey) -> None:
        """A request has waited for as long as requests may. Its pointer's turn may be over, though others wait on."""
        route, now = self._routes.get(key), asyncio.get_running_loop().time()
        if route is None or route.named_at is None or not rules.is_overdue(now - route.named_at, self._limits):
            return
        route.since, route.named_at = now, None
        self._turns = self._turns.taken(key[0], self._of_tenant)
        self._name()

    def _leave(self, key: PointerKey, future: asyncio.Future[bool], *, goes_on: bool = True) -> None:
        """A request waits no more. The last one for a pointer ends its tenant's turn, if its load had begun."""
        if not future.done():
            future.set_result(goes_on)
        of_tenant = self._of_tenant.get(key[0], {})
        if of_tenant.pop(future, None) is None:
            return
        if not of_tenant:
            del self._of_tenant[key[0]]
        route = self._routes[key]
        del route.waiting[future]
        if not route.waiting:
            del self._routes[key]
            if route.named_at is not None:
                self._turns = self._turns.taken(key[0], self._of_tenant)
            self._name()

    # ---- the router ----------------------------------------------------------------------------------------

    def awaits(self, key: PointerKey, release: str | None) -> None:
        """A pointer's release is yet to be loaded, or (None) its requests have no load to wait for."""
        if self.awaited.get(key) == release:
            return
        if release is not None:
            self.awaited[key] = release
            if key in self._routes or key in self._coming:
                self._name()
            return
        del self.awaited[key]
        self._let_go(key)
        if key in self._coming:
            self._name()

    def end(self) -> None:
        """Lets all go: another router has the right to admit."""
        self._ended = True
        for key in list(self._routes):
            self._let_go(key)

    def _let_go(self, key: PointerKey) -> None:
        for future in list(self._routes[key].waiting) if key in self._routes else ():
            self._leave(key, future)

    # ---- the agent -----------------------------------------------------------------------------------------

    async def wanted(self, ask: ColdAsk) -> WantedLoads:
        """The releases that are to be loaded, once they are others than the agent knows, or after POLL_S."""
        self._load_s, self._failing, self._full = ask.load_s, frozenset(ask.failing), frozenset(ask.full)
        self._heard_at = asyncio.get_running_loop().time()
        for key in [key for key in self._routes if self.awaited.get(key) in self._failing | self._full]:
            self._let_go(key)
        self._name()  # without what has not come in time
        if ask.times == self._times:
            self._renamed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._renamed.wait()
        return WantedLoads(times=self._times, releases=self._named, hinted=self._hinted)

    def _name(self) -> None:
        """Decides anew which releases the agent is to load."""
        routes = (ColdRoute(key, route.since) for key, route in self._routes.items())
        keys = rules.in_turn(routes, self._turns)[: self._limits.loads]
        now = asyncio.get_running_loop().time()
        for key in keys:
            route = self._routes[key]
            route.named_at = now if route.named_at is None else route.named_at
        self._coming = {
            key: until
            for key, until in self._coming.items()
            if until > now and key in self.awaited and key not in self._routes
        }
        named = tuple((*key, self.awaited[key]) for key in keys)
        hinted = tuple((*key, self.awaited[key]) for key in self._coming)
        if (named, hinted) != (self._named, self._hinted):
            self._named, self._hinted = named, hinted
            self._times += 1
            self._renamed.set()

    def figures(self, asked: int) -> ColdFigures | None:
        """Returns what has waited here and what waits now; None while no on-demand route was asked for.

        `asked`: requests for on-demand routes since the router's start.
        """
        waiting = sum(map(len, self._of_tenant.values()))
        if not (asked or waiting):
            return None
        since = asyncio.get_running_loop().time() - _MINUTE_S
        while self._minute and self._minute[0] < since:
            self._minute.popleft()
        return ColdFigures(
            asked=asked,
            cold=self._cold,
            refused=self._refused,
            minute=len(self._minute),
            waiting=waiting,
            hinted=self._hints,
        )
