"""Routers of one node that hand over to each other, in every order of what can happen (breadth first).

Each decision is one of `rules.serving.router_handover`. Written down here are the lock, which the kernel frees when
its holder ends; the table's file; callers who ask any router at any time, on connections that they have kept; and the
agent, who asks a draining router to cut and hears what it still answers with, at once or late. Entries are named by
their generation, each with a release of its own, on a route that cuts the answers of a left release.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache

from tests.exhaustive.search import Violation, search
from tests.fleets.in_process.log import ACME, ref

from loradeck.rules.serving.router_handover import Stage, may_acknowledge, may_admit, may_give_back, stage, uncut
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import Streams, TableEntry

FIRST = 1


@dataclass(frozen=True)
class Router:
    """A router: its part of the lock, the generation that it would answer by, and the answers that are under way.

    `said`: the generations that it last told the agent to be answering by since it drains; None: nothing yet.
    """

    locked: bool = False
    read: bool = False
    gave_back: bool = False
    holds: int = 0
    answering: frozenset[int] = frozenset()
    said: frozenset[int] | None = None


@dataclass(frozen=True)
class World:
    """`routers`: those that live; `started`: how many ever were. `disk`: the generation in the table's file.

    `newest`: of the hub; `acked`: of the node. `seen`: the highest that a router has put in force, which a router that
    ends without its disk takes along. `read_only`: the disk takes no write.
    """

    routers: tuple[Router, ...] = ()
    started: int = 0
    disk: int = FIRST
    newest: int = FIRST
    acked: int = FIRST
    seen: int = FIRST
    read_only: bool = False


@dataclass
class Rules:
    """The decisions that a checked mistake may replace."""

    stage: Callable[..., Stage] = stage
    may_admit: Callable[[Stage], bool] = may_admit
    may_give_back: Callable[[Stage, Collection[PointerKey]], bool] = may_give_back
    may_acknowledge: Callable[[Stage, TableEntry, Iterable[Collection[str] | None]], bool] = may_acknowledge


@dataclass
class Check:
    """A search from a node without a router over all worlds within the bounds.

    Args:
        starts: most routers that are ever started.
        moves: most moves of the pointer.
    """

    starts: int = 3
    moves: int = 2
    rules: Rules = field(default_factory=Rules)
    worlds: int = 0
    steps: int = 0

    def run(self) -> None:
        """Looks at every world once. Raises: Violation."""
        self.worlds, self.steps = search(World(), self._steps, self._look)

    # ---- what can happen -----------------------------------------------------------------------------------

    def _steps(self, world: World) -> Iterator[tuple[str, World]]:
        routers = world.routers
        waits = any(self._stage(router) is Stage.WARM for router in routers)
        if world.started < self.starts and not waits:
            warm = Router(holds=world.disk)
            yield f"router {world.started} starts", replace(world, routers=(*routers, warm), started=world.started + 1)
        if world.newest < FIRST + self.moves:
            yield "the hub moves", replace(world, newest=world.newest + 1)
        yield "the disk turns", replace(world, read_only=not world.read_only)
        for at, router in enumerate(routers):
            for name, after in self._steps_of(world, at, router):
                yield f"router {at} {name}", after

    def _steps_of(self, world: World, at: int, router: Router) -> Iterator[tuple[str, World]]:
        now = self._stage(router)
        rest = world.routers[:at] + world.routers[at + 1 :]
        volatile = router.locked and router.holds > world.disk
        seen = world.disk if volatile else world.seen
        yield "ends", replace(world, routers=rest, seen=seen)
        if self.rules.may_admit(now):
            yield "admits", _with(world, at, replace(router, answering=router.answering | {router.holds}))
        for one in router.answering:
            yield f"finishes {one}", _with(world, at, replace(router, answering=router.answering - {one}))
        if now is Stage.WARM and not router.locked and not any(other.locked for other in rest):
            yield "takes the lock", _with(world, at, replace(router, locked=True))
        if now is Stage.WARM and router.locked:
            yield "reads", _with(world, at, replace(router, read=True, holds=world.disk))
        if router.locked and self.rules.may_give_back(now, (ACME,) if volatile else ()):
            yield "gives the lock back", _with(world, at, replace(router, locked=False, gave_back=True))
        if now is Stage.SERVING:
            yield from self._served(world, at, router)
        if now is Stage.DRAINING:
            yield "says what it answers with", _with(world, at, replace(router, said=router.answering))
            cut = replace(router, answering=router.answering - self._uncut(world.newest, router.answering))
            yield "cuts", _with(world, at, cut)

    def _served(self, world: World, at: int, router: Router) -> Iterator[tuple[str, World]]:
        if router.holds < world.newest or (router.holds > world.disk and not world.read_only):
            answering = router.answering - self._uncut(world.newest, router.answering)
            flipped = _with(world, at, replace(router, holds=world.newest, answering=answering))
            disk = world.disk if world.read_only else world.newest
            yield "flips", replace(flipped, disk=disk, seen=max(world.seen, world.newest))
        if world.acked < router.holds == world.disk:
            others = [other for other in world.routers if self._stage(other) is Stage.DRAINING]
            said = [None if other.said is None else {_id(one) for one in other.said} for other in others]
            if self.rules.may_acknowledge(self._stage(router), _entry(router.holds), said):
                yield "acknowledges", replace(world, acked=router.holds)

    # ---- what must hold ------------------------------------------------------------------------------------

    def _look(self, before: World, world: World) -> None:
        admit = [router for router in world.routers if self.rules.may_admit(self._stage(router))]
        if any(router.holds < world.acked for router in admit):
            raise Violation("a router admits to a left release after its flip was acknowledged")
        if any(router.holds < world.seen for router in admit):
            raise Violation("a hand-over brought a left release back")
        if len(admit) > 1:
            raise Violation("two routers admit")
        if world.disk < world.acked:
            raise Violation("a flip was acknowledged that the table's file does not have")
        for router in world.routers:
            if any(one < world.acked for one in router.answering):
                raise Violation("an answer of a left release goes on after its cut was acknowledged")
        settled = self._settled(world)
        if settled.acked != world.newest:
            raise Violation("a flip is never acknowledged, though every router does what it should")

    def _settled(self, world: World) -> World:
        """Where a world comes to when nothing fails, another router is started, and all drainers cut and say so."""
        drained = tuple(router for router in world.routers if self._stage(router) is Stage.DRAINING)
        rest = [router for router in world.routers if router not in drained]
        come = next((router for router in rest if router.locked), rest[0] if rest else Router())
        come = replace(come, locked=True, read=True, holds=come.holds if come.read else world.disk)
        cut = tuple(
            replace(one, answering=left, said=left)
            for one in drained
            for left in [one.answering - self._uncut(world.newest, one.answering)]
        )
        calm = replace(world, routers=(come, *cut), read_only=False)
        for wanted in ("flips", "acknowledges"):
            calm = next((after for name, after in self._served(calm, 0, calm.routers[0]) if name == wanted), calm)
        return calm

    # ---- short words ---------------------------------------------------------------------------------------

    def _stage(self, router: Router) -> Stage:
        return self.rules.stage(locked=router.locked, read=router.read, gave_back=router.gave_back)

    def _uncut(self, wanted: int, answering: frozenset[int]) -> frozenset[int]:
        cut = uncut(_entry(wanted), (_id(one) for one in answering))
        return frozenset(one for one in answering if _id(one) in cut)


@cache
def _entry(generation: int) -> TableEntry:
    current = ref(f"v{generation}")
    return TableEntry(
        tenant=ACME[0], route=ACME[1], epoch=1, generation=generation, current=current, streams=Streams.CUT
    )


@cache
def _id(generation: int) -> str:
    return ref(f"v{generation}").id


def _with(world: World, at: int, router: Router) -> World:
    return replace(world, routers=(*world.routers[:at], router, *world.routers[at + 1 :]))
