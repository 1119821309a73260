"""Neighbours and single nodes that try to steer guard: it rolls a bad release back, and leaves a good one alone.

Three honest nodes serve acme and three neighbours. Each second they report what they have counted, and the hub looks.
A liar is a fourth node that serves the same: it sends what an honest node would, changed by one lie, each second before
the others. After the promote of acme's v2 either 40 % of the answers everywhere are bad while v1 beneath answers the
same requests well, or all are good.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import pytest
from tests.attacks.lies import ACME, BAD, HONEST, LIES, MILLION, UNITS, Lie, Router, about, both, numbers, pairs
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, Time, data_folder, key, running
from tests.fleets.waiting import until

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Event, EventKind, PointerState

NEIGHBOURS: tuple[PointerKey, ...] = tuple((name, "production") for name in ("birch", "cedar", "elm"))
JUST_BEFORE = 2
"""Seconds in which a flag is raised and nobody can tell yet whose doing it is."""

ENOUGH = 20
"""Seconds in which guard has to decide, and by which the cause of a flag is found."""


# ---- the fleet ---------------------------------------------------------------------------------------------------


class Fleet:
    """A hub, its nodes, and time that goes on as a test says."""

    def __init__(self, deck: Deck, time: Time) -> None:
        self.deck, self.time = deck, time
        self.routers: list[Router] = []

    async def node(self, name: str, lie: Lie = HONEST, **labels: str) -> Router:
        """A node joins. One that lies reports before the others."""
        router = Router(await LinkedAgent(self.deck, name, slots=16, **labels).join(), lie)
        self.routers.insert(0 if lie is not HONEST else len(self.routers), router)
        return router

    async def promoted(self, of: PointerKey, seed: int) -> str:
        """A new release is live on a route. Returns it."""
        release, (tenant, route) = await self.deck.release(of[0], seed=seed), of
        generation = self.deck.hub.log.state.route(*of)[2].generation
        body = {"release": release, "expected_generation": generation, "idempotency_key": key()}
        await self.deck.ok("POST", f"tenants/{tenant}/routes/{route}/promote?wait=proven&timeout=60", body)
        await self.deck.settled(tenant, route)
        return release

    async def second(self, loads: Mapping[PointerKey, tuple[int, int]]) -> None:
        """One second passes: all report, and the hub looks."""
        self.time.passed += 1
        for router in self.routers:
            await router.report(100 + self.time.passed, loads)
        self.deck.hub.progress.tick()
        self.deck.hub.guard.tick()

    async def seconds(self, n: int, loads: Mapping[PointerKey, tuple[int, int]] | None = None) -> None:
        for _ in range(n):
            await self.second(loads or {})

    async def is_rolled_back(self, loads: Mapping[PointerKey, tuple[int, int]], of: PointerKey = ACME) -> bool:
        """Whether guard takes a route's release out while so many reports come in as it needs at most, and more."""
        for _ in range(ENOUGH):
            await self.second(loads)
            if self.has_moved(of):
                return True
        decided = self.deck.hub.guard.said
        await until(lambda: self.has_moved(of) or not decided.get(of, "").endswith(": rollback"), "guard has decided")
        return self.has_moved(of)

    def has_moved(self, of: PointerKey) -> bool:
        return any(event.pointer is not None and event.pointer.key == of for event in self.moves())

    def pointer(self, of: PointerKey = ACME) -> PointerState:
        return self.deck.hub.log.state.pointers[of]

    def moves(self) -> list[Event]:
        """The moves that guard has made."""
        return [e for e in self.deck.hub.log.recent if e.actor == "guard" and e.kind is EventKind.ROLLBACK]

    def cordoned(self) -> set[str]:
        return {node.name for node in self.deck.hub.fleet.nodes.values() if node.cordoned}


@pytest.fixture
async def fleet(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    """A hub without nodes."""
    async with data_folder() as data, running(data) as deck:
        fleet = Fleet(deck, Time(deck, monkeypatch))
        yield fleet
        for router in fleet.routers:
            await router.agent.leave()


async def serving(fleet: Fleet, lie: Lie | None = None, before: int = ENOUGH) -> tuple[str, str]:
    """Three honest nodes, and one that lies, serve acme and its neighbours. Returns acme's v1 and v2, which is live.

    `before`: seconds that v1 has been live, and lied about, before v2 is.
    """
    for name in ("n1", "n2", "n3"):
        await fleet.node(name)
    if lie is not None:
        await fleet.node("n4", lie)
    for number, of in enumerate(NEIGHBOURS):
        await fleet.deck.tenant(of[0])
        await fleet.promoted(of, 10 + number)
    await fleet.deck.tenant("acme", guard="rollback")
    await fleet.promoted(ACME, 1)
    one = await fleet.promoted(ACME, 2)
    await fleet.seconds(before)
    return one, await fleet.promoted(ACME, 3)


async def assert_rolled_back(
    fleet: Fleet, one: str, two: str, loads: Mapping[PointerKey, tuple[int, int]] | None = None
) -> None:
    """Guard takes v2 out, which is bad on every node, and holds nothing against v1 or what lies beneath that."""
    assert await fleet.is_rolled_back({**(loads or {}), ACME: (UNITS, BAD)}), fleet.deck.hub.guard.said.get(ACME)
    now, (event,) = fleet.pointer(), fleet.moves()
    assert (event.to_release, now.release, now.held) == (one, one, True)
    assert [quarantined.release for quarantined in now.quarantined] == [two]
    assert not fleet.deck.hub.facts.is_breached(now, one)
    assert (await fleet.deck.row()).preview.skipped == ()


async def assert_left_alone(fleet: Fleet, two: str, loads: Mapping[PointerKey, tuple[int, int]] | None = None) -> None:
    """Guard moves nothing while v2 answers well, and R does not pass over it later."""
    await fleet.seconds(ENOUGH, loads)
    assert (fleet.moves(), fleet.pointer().release, fleet.pointer().held) == ([], two, False)
    assert not fleet.deck.hub.facts.is_breached(fleet.pointer(), two)
    await fleet.promoted(ACME, 4)
    preview = (await fleet.deck.row()).preview
    assert (preview.target and preview.target.id, preview.skipped) == (two, ())


def drawn(names: Iterable[str], fails: Mapping[str, str] | None = None) -> list[Any]:
    """Parameters of which a third is tried in each run. `fails`: name -> why guard does not do well there yet."""
    fails = fails or {}
    return [
        pytest.param(
            name,
            id=name,
            marks=[
                pytest.mark.drawn(seconds=2, group=name),
                *([pytest.mark.xfail(strict=True, reason=fails[name])] if name in fails else []),
            ],
        )
        for name in names
    ]


# ---- neighbours --------------------------------------------------------------------------------------------------

BIRCH, *OTHERS = NEIGHBOURS

FLOODS: dict[str, Mapping[PointerKey, tuple[int, int]]] = {
    "bad answers, sixty times as many": {BIRCH: (60 * UNITS, 60 * UNITS)},
    "bad answers, sixty times as many, others asked little": {
        BIRCH: (60 * UNITS, 60 * UNITS),
        **dict.fromkeys(OTHERS, (1, 0)),
    },
    "bad answers, and all others' are bad too": dict.fromkeys(NEIGHBOURS, (60 * UNITS, 60 * UNITS)),
    "good answers by the million": {BIRCH: (MILLION, 0)},
}
"""What neighbours' callers have of bad and good answers, on every node."""


@pytest.mark.parametrize("flood", drawn(FLOODS))
@pytest.mark.parametrize("alone", [True, False], ids=["the only neighbour", "one of three neighbours"])
async def test_a_flood_of_a_neighbours_answers_stops_no_rollback(fleet: Fleet, flood: str, alone: bool) -> None:
    one, two = await serving(fleet)
    await assert_rolled_back(fleet, one, two, only_birch(FLOODS[flood]) if alone else FLOODS[flood])


@pytest.mark.parametrize("flood", drawn(FLOODS))
@pytest.mark.parametrize("alone", [True, False], ids=["the only neighbour", "one of three neighbours"])
async def test_a_flood_of_a_neighbours_answers_moves_no_good_release(fleet: Fleet, flood: str, alone: bool) -> None:
    _, two = await serving(fleet)
    await assert_left_alone(fleet, two, only_birch(FLOODS[flood]) if alone else FLOODS[flood])


def only_birch(loads: Mapping[PointerKey, tuple[int, int]]) -> Mapping[PointerKey, tuple[int, int]]:
    """The same, where nobody asks the other neighbours anything."""
    return {**dict.fromkeys(OTHERS, (0, 0)), BIRCH: loads[BIRCH]}


# ---- a node that lies --------------------------------------------------------------------------------------------

STEERING = {
    "own units: all good, by the million": "good answers that a node makes up dilute what the others report",
    "pairs: the release beneath is bad": "pairs that a node makes up are summed with those of the others",
}
"""Lies by which a node keeps guard from rolling back what it serves beside others, and why. docs/trust.md says so."""


@pytest.mark.parametrize("lie", drawn(LIES, STEERING))
async def test_a_node_that_lies_stops_no_rollback(fleet: Fleet, lie: str) -> None:
    one, two = await serving(fleet, LIES[lie])
    await assert_rolled_back(fleet, one, two)
    assert fleet.cordoned() <= {"n4"}


@pytest.mark.parametrize("lie", drawn(LIES))
async def test_a_node_that_lies_moves_no_good_release(fleet: Fleet, lie: str) -> None:
    _, two = await serving(fleet, LIES[lie])
    await assert_left_alone(fleet, two)
    assert fleet.cordoned() <= {"n4"}


@pytest.mark.parametrize(
    "lie",
    [
        "own units: all bad",
        "own units: all bad, by the million",
        "own units: all failed, by the million",
        "clock: there and back",
        "overdue: all, by the million",
        "router: starts again each second, and all units bad",
        "callers: hundreds, and all units bad",
    ],
)
async def test_a_node_that_lies_about_v1_just_before_it_is_left_stops_no_rollback_to_it(fleet: Fleet, lie: str) -> None:
    """Whose doing a flag is takes some seconds to find, and the pointer moves before."""
    one, two = await serving(fleet, LIES[lie], before=JUST_BEFORE)
    await assert_rolled_back(fleet, one, two)


# ---- budgets of moves --------------------------------------------------------------------------------------------


async def test_three_tenants_of_a_node_that_lies_leave_acmes_guard_working(fleet: Fleet) -> None:
    await fleet.node("n4", about(False, both(numbers(bad=UNITS), pairs(UNITS, 0))), site="far")
    for name in ("n1", "n2", "n3"):
        await fleet.node(name, site="here")
    await spends_budget_and_acme_is_moved(fleet, NEIGHBOURS, {"site": "far"})
    assert [event.payload["budget"]["node"] for event in fleet.moves()] == ["n4", "n4", "n4", ""]


async def test_three_routes_of_one_customer_leave_acmes_guard_working(fleet: Fleet) -> None:
    for name in ("n1", "n2", "n3"):
        await fleet.node(name, site="here")
    routes = [("birch", f"route-{number}") for number in range(3)]
    await spends_budget_and_acme_is_moved(fleet, routes, {"site": "here"})
    assert [event.payload["budget"]["node"] for event in fleet.moves()] == [""] * 4


async def spends_budget_and_acme_is_moved(fleet: Fleet, spent: Sequence[PointerKey], placed: dict[str, str]) -> None:
    """Guard takes out the releases of three routes, and then acme's, which is bad on the three honest nodes."""
    for number, of in enumerate(spent):
        await fleet.deck.tenant(*of, guard="rollback", placement=placed)
        for seed in (0, 1):
            await fleet.promoted(of, 10 + 2 * number + seed)
    await fleet.deck.tenant("acme", guard="rollback", placement={"site": "here"})
    one, two = [await fleet.promoted(ACME, seed) for seed in (1, 2)]
    for of in spent:
        assert await fleet.is_rolled_back({of: (UNITS, BAD)}, of), fleet.deck.hub.guard.said.get(of)
    assert await fleet.is_rolled_back({ACME: (UNITS, BAD)}), fleet.deck.hub.guard.said.get(ACME)
    *first, last = [(event.tenant, event.route) for event in fleet.moves()]
    assert (sorted(first), last) == (sorted(spent), ACME)
    assert (fleet.pointer().release, [q.release for q in fleet.pointer().quarantined]) == (one, [two])
