"""Neighbours and single nodes that try to steer guard: it rolls a bad release back, and leaves a good one alone.

Three honest nodes serve acme and three neighbours. Each second they report what they have counted, and the hub looks.
A liar is a fourth node that serves the same: it sends what an honest node would, changed by one lie, each second before
the others. After the promote of acme's v2 either 40 % of the answers everywhere are bad while v1 beneath answers the
same requests well, or all are good.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, Time, data_folder, key, running
from tests.fleets.waiting import until
from websockets.exceptions import ConnectionClosed

from loradeck.schemas.counts import BINS, STEP_S, AskedAgain, StepOfCaller, Traffic
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Desired, Resync
from loradeck.schemas.log import Event, EventKind, PointerState
from loradeck.schemas.replica_state import EngineState

ACME = ("acme", "production")
NEIGHBOURS: tuple[PointerKey, ...] = tuple((name, "production") for name in ("birch", "cedar", "elm"))
UNITS, BAD = 20, 8
"""Units of a route on one node in a second, and those of them that are bad where its release is."""

MILLION = 10**6
JUST_BEFORE = 3
"""Seconds in which a flag is raised and nobody can tell yet whose doing it is."""

ENOUGH = 20
"""Seconds of bad answers that guard is given: three times as many as it takes where nobody lies."""


# ---- what a router counts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A second of a router's clock, and how many seconds its counters of a release have run, that one with them."""

    at: int
    run: int


def counted(row: Traffic, moment: Moment, *, units: int = UNITS, bad: int = 0, failed: int = 0) -> Traffic:
    """The counters of a release that had so many units in each second, and so many of them bad or failed."""
    well, seconds = units - failed, min(moment.run, moment.at % STEP_S + 1)
    return row.model_copy(
        update={
            **dict.fromkeys(("attempted", "admitted"), units * moment.run),
            **dict.fromkeys(("finished", "checked"), well * moment.run),
            "bad": bad * moment.run,
            "errors": failed * moment.run,
            "votes": ((moment.at, units, failed, well, bad),),
            "caller_votes": by_eight(moment.at // STEP_S, bad * seconds, failed * seconds),
        }
    )


def by_eight(step: int, bad: int, failed: int = 0) -> tuple[StepOfCaller, ...]:
    """The bad and failed units of a step, if eight callers share them."""
    b, f = bad // 8, failed // 8
    return tuple((step, caller, b + f, f, b, b) for caller in range(8)) if b or f else ()


@dataclass
class Stint:
    """What a router has counted of one release since it went live: bad units, and as many bad pairs of a share of them.

    `step` is the one that runs, with its bad units.
    """

    seconds: int = 0
    units: int = 0
    bad: int = 0
    given: int = 0
    step: int = 0
    bad_of_step: int = 0

    def add(self, at: int, units: int, bad: int) -> None:
        """Counts a second."""
        if at // STEP_S != self.step:
            self.step, self.bad_of_step = at // STEP_S, 0
        self.seconds += 1
        self.units += units
        self.bad += bad
        self.bad_of_step += bad
        self.given += round(UNITS * bad / units) if units else 0

    def again(self, beneath: str) -> AskedAgain:
        """UNITS pairs of each second: as many bad as of the units, and none of the release beneath."""
        n = UNITS * self.seconds
        return AskedAgain(release=beneath, asked=n, pairs=n, checked=n, bad=(self.given, 0))


def paired(row: Traffic, moment: Moment, *, given: int = 0, beneath: int = 0, pairs: int = UNITS) -> Traffic:
    """The same counters, with so many pairs of answers in each second, and bad ones of both releases among them.

    They stay as they are where nothing is asked again.
    """
    if row.again is None:
        return row
    n = pairs * moment.run
    again = AskedAgain(
        release=row.again.release, asked=n, pairs=n, checked=n, bad=(given * moment.run, beneath * moment.run)
    )
    return row.model_copy(update={"again": again})


@dataclass(frozen=True)
class Lie:
    """What a liar changes: a row of its report, what its engine seems to be, and which start of its router it names."""

    row: Callable[[Traffic, Moment], Traffic] = lambda row, _: row
    engine: Callable[[LinkedAgent, Moment], None] = lambda _agent, _moment: None
    boot: Callable[[Moment], str] = lambda _: "r1"


HONEST = Lie()


class Router:
    """A node and what its router has counted."""

    def __init__(self, agent: LinkedAgent, lie: Lie = HONEST) -> None:
        self.agent, self.lie = agent, lie
        self._stints: dict[tuple[PointerKey, int], Stint] = {}

    async def report(self, at: int, loads: Mapping[PointerKey, tuple[int, int]]) -> None:
        """Reports a second, and returns once the hub has read that, or has ended the link.

        `loads`: route -> units in that second and those that are bad; those left out have UNITS and none.
        """
        if self.agent.closed is not None:
            await self.agent.leave()
            await self.agent.join()
        rows = [self._row(of, at, *loads.get(of, (UNITS, 0))) for of in list(self.agent.entries)]
        moment, tables = Moment(at, at), self._tables()
        self.lie.engine(self.agent, moment)
        with contextlib.suppress(ConnectionClosed):
            await self.agent.report(*rows, router_boot=self.lie.boot(moment))
            await self.agent.send(Resync(why="to know that the report was read"))
        await until(lambda: self.agent.closed or self._tables() > tables, f"{self.agent.name} is heard")

    def _tables(self) -> int:
        return sum(isinstance(message, Desired) for message in self.agent.received)

    def _row(self, of: PointerKey, at: int, units: int, bad: int) -> Traffic:
        entry = self.agent.entries[of]
        assert entry.current is not None
        stint = self._stints.setdefault((of, entry.generation), Stint())
        stint.add(at, units, bad)
        is_compared = entry.asked_again_until_ms is not None and entry.beneath
        row = Traffic(
            tenant=of[0],
            route=of[1],
            generation=entry.generation,
            release=entry.current.id,
            replica=self.agent.replica.replica,
            **dict.fromkeys(("attempted", "admitted", "finished", "checked"), stint.units),
            bad=stint.bad,
            votes=((at, units, 0, units, bad),),
            callers=24,
            caller_votes=by_eight(stint.step, stint.bad_of_step),
            again=stint.again(entry.beneath[0].id) if is_compared else None,
        )
        return self.lie.row(row, Moment(at, stint.seconds))


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


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("alone", [True, False], ids=["the only neighbour", "one of three neighbours"])
async def test_a_flood_of_a_neighbours_answers_stops_no_rollback(fleet: Fleet, flood: str, alone: bool) -> None:
    one, two = await serving(fleet)
    await assert_rolled_back(fleet, one, two, only_birch(FLOODS[flood]) if alone else FLOODS[flood])


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("alone", [True, False], ids=["the only neighbour", "one of three neighbours"])
async def test_a_flood_of_a_neighbours_answers_moves_no_good_release(fleet: Fleet, flood: str, alone: bool) -> None:
    _, two = await serving(fleet)
    await assert_left_alone(fleet, two, only_birch(FLOODS[flood]) if alone else FLOODS[flood])


def only_birch(loads: Mapping[PointerKey, tuple[int, int]]) -> Mapping[PointerKey, tuple[int, int]]:
    """The same, where nobody asks the other neighbours anything."""
    return {**dict.fromkeys(OTHERS, (0, 0)), BIRCH: loads[BIRCH]}


# ---- a node that lies --------------------------------------------------------------------------------------------


def about(is_acme: bool, change: Callable[[Traffic, Moment], Traffic]) -> Lie:
    """A lie in the rows of acme alone, or in those of its neighbours alone."""
    return Lie(lambda row, moment: change(row, moment) if (row.key == ACME) is is_acme else row)


def numbers(units: int = UNITS, bad: int = 0, failed: int = 0) -> Callable[[Traffic, Moment], Traffic]:
    """So many units in each second, and bad or failed ones among them."""
    return lambda row, moment: counted(row, moment, units=units, bad=bad, failed=failed)


def pairs(given: int, beneath: int, n: int = UNITS) -> Callable[[Traffic, Moment], Traffic]:
    """So many pairs in each second, and bad answers of both releases among them."""
    return lambda row, moment: paired(row, moment, given=given, beneath=beneath, pairs=n)


def fields(**said: Any) -> Callable[[Traffic, Moment], Traffic]:
    """Some fields of a row as they are given, whatever was counted."""
    return lambda row, _: row.model_copy(update=said)


def callers_of(n: int, bins: Sequence[int], bad: int) -> Callable[[Traffic, Moment], Traffic]:
    """So many callers, and in each of some bins so many bad units."""

    def lie(row: Traffic, moment: Moment) -> Traffic:
        votes = tuple((moment.at // STEP_S, caller, bad, 0, bad, bad) for caller in bins)
        return row.model_copy(update={"callers": n, "caller_votes": votes})

    return lie


def dated(second: Callable[[int], int]) -> Callable[[Traffic, Moment], Traffic]:
    """Another second of the clock than the one that it is."""

    def lie(row: Traffic, moment: Moment) -> Traffic:
        at = max(0, second(moment.at))
        steps = tuple((at // STEP_S, *rest) for _, *rest in row.caller_votes)
        return row.model_copy(update={"votes": tuple((at, *v[1:]) for v in row.votes), "caller_votes": steps})

    return lie


def overdue(decided: int, late: int) -> Callable[[Traffic, Moment], Traffic]:
    """So many units of each second are decided, and so many late."""
    return lambda row, moment: row.model_copy(
        update={"overdue_votes": ((moment.at, decided, late),), "overdue_ms": (1000, 1000)}
    )


def both(*changes: Callable[[Traffic, Moment], Traffic]) -> Callable[[Traffic, Moment], Traffic]:
    """One change after the other."""

    def lie(row: Traffic, moment: Moment) -> Traffic:
        for change in changes:
            row = change(row, moment)
        return row

    return lie


def shrinking(row: Traffic, moment: Moment) -> Traffic:
    """Counters that a report takes back from the one before."""
    least = 10_000 - 100 * (moment.at % 90)
    counts = dict.fromkeys(("attempted", "admitted", "finished", "checked", "bad"), least)
    return pairs(least, 0, least)(row.model_copy(update=counts), Moment(moment.at, 1))


def contradictory(row: Traffic, moment: Moment) -> Traffic:
    """More bad answers than checked ones, more checked ones than requests, and more bad pairs than pairs."""
    again = row.again and row.again.model_copy(update={"bad": (10**9, 10**9), "failed": (7, 7)})
    counts = {"bad": 10**6, "checked": 1000, "finished": 10, "attempted": 0, "again": again}
    return row.model_copy(update={**counts, "votes": ((moment.at, 1, 50, 3, 10**6),)})


def of_the_release_beneath(row: Traffic, moment: Moment) -> Traffic:
    """Bad answers under the release beneath and its generation, as if it were live."""
    if row.again is None:
        return row
    wrong = counted(row, moment, units=MILLION, bad=MILLION)
    return wrong.model_copy(update={"release": row.again.release, "generation": row.generation - 1, "again": None})


def started_again(agent: LinkedAgent, moment: Moment) -> None:
    agent.replica = agent.replica.model_copy(update={"boot": f"b{moment.at}"})


def is_down(agent: LinkedAgent, moment: Moment) -> None:
    agent.replica = agent.replica.model_copy(update={"state": EngineState.DOWN})


def negative(row: Traffic, _: Moment) -> Traffic:
    counts = dict.fromkeys(("attempted", "admitted", "finished", "checked", "bad", "errors", "callers"), -(10**6))
    return row.model_copy(update={**counts, "votes": ((-5, -9, -9, -9, -9),)})


LIES: dict[str, Lie] = {
    "neighbours: all bad": about(False, numbers(60 * UNITS, bad=60 * UNITS)),
    "neighbours: all failed": about(False, numbers(60 * UNITS, failed=60 * UNITS)),
    "neighbours: all good, by the million": about(False, numbers(MILLION)),
    "own units: all good": about(True, both(numbers(), pairs(0, 0))),
    "own units: all good, by the million": about(True, both(numbers(MILLION), pairs(0, 0))),
    "own units: all bad": about(True, numbers(bad=UNITS)),
    "own units: all bad, by the million": about(True, numbers(MILLION, bad=MILLION)),
    "own units: all failed, by the million": about(True, numbers(MILLION, failed=MILLION)),
    "own units: all bad by the million, and only the release beneath well": about(
        True, both(numbers(MILLION, bad=MILLION), pairs(MILLION, 0, MILLION))
    ),
    "callers: one": about(True, callers_of(1, [5], UNITS)),
    "callers: one with all bad units, by the million": about(True, callers_of(1, [5], MILLION)),
    "callers: none": about(True, callers_of(0, [], 0)),
    "callers: hundreds": about(True, callers_of(900, range(BINS), MILLION)),
    "callers: hundreds, and all units bad": about(
        True, both(numbers(MILLION, bad=MILLION), callers_of(900, range(BINS), MILLION))
    ),
    "pairs: the release beneath is bad": about(True, pairs(0, UNITS)),
    "pairs: the release beneath is bad, by the million": about(True, pairs(0, MILLION, MILLION)),
    "pairs: both good": about(True, pairs(0, 0)),
    "pairs: both good, by the million": about(True, pairs(0, 0, MILLION)),
    "pairs: both bad, by the million": about(True, pairs(MILLION, MILLION, MILLION)),
    "pairs: only the release beneath is well, by the million": about(True, pairs(MILLION, 0, MILLION)),
    "pairs: with another release": about(True, lambda row, _: row.model_copy(update={"again": row.again and (
        row.again.model_copy(update={"release": "f" * 64}))})),
    "clock: far in the past": about(True, both(numbers(bad=UNITS), dated(lambda at: at - 10**6))),
    "clock: far in the future": about(True, both(numbers(bad=UNITS), dated(lambda at: at + 10**9))),
    "clock: there and back": about(True, both(numbers(bad=UNITS), dated(lambda at: at + (at % 2) * 10**9))),
    "clock: stands still": about(True, both(numbers(bad=UNITS), dated(lambda _: 100))),
    "clock: beyond all numbers": about(True, both(numbers(bad=UNITS), dated(lambda _: 2**63))),
    "clock: there and back, of its neighbours": about(False, dated(lambda at: at + (at % 2) * 10**9)),
    "overdue: all": about(True, overdue(UNITS, UNITS)),
    "overdue: all, by the million": about(True, overdue(MILLION, MILLION)),
    "overdue: none, by the million": about(True, overdue(MILLION, 0)),
    "engine: starts again each second": Lie(engine=started_again),
    "engine: starts again each second, and all requests failed": Lie(
        about(True, numbers(MILLION, failed=MILLION)).row, engine=started_again
    ),
    "engine: down": Lie(engine=is_down),
    "router: starts again each second": Lie(boot=lambda moment: f"r{moment.at}"),
    "router: starts again each second, and all units bad": Lie(
        about(True, numbers(MILLION, bad=MILLION)).row, boot=lambda moment: f"r{moment.at}"
    ),
    "counts: negative": Lie(negative),
    "counts: huge": Lie(numbers(2**62, bad=2**62)),
    "counts: huge and good": about(False, numbers(2**56)),
    "counts: shrink": Lie(shrinking),
    "counts: contradict": Lie(contradictory),
    "release: what lies beneath was bad": about(True, of_the_release_beneath),
    "checks: all notice everything": about(
        True, fields(noticed={"language": MILLION}, faults={"empty": MILLION}, judged={"failed": MILLION})
    ),
}  # fmt: skip
"""What one node says -> how. Each input of the decision is lied about in both directions."""


STEERING = {
    "own units: all good, by the million": "good answers that a node makes up dilute what the others report",
    "pairs: the release beneath is bad": "pairs that a node makes up are summed with those of the others",
}
"""Lies by which a node keeps guard from rolling back what it serves beside others, and why. docs/trust.md says so."""


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lie, marks=pytest.mark.xfail(strict=True, reason=STEERING[lie]) if lie in STEERING else ())
        for lie in LIES
    ],
)
async def test_a_node_that_lies_stops_no_rollback(fleet: Fleet, lie: str) -> None:
    one, two = await serving(fleet, LIES[lie])
    await assert_rolled_back(fleet, one, two)
    assert fleet.cordoned() <= {"n4"}


@pytest.mark.parametrize("lie", LIES)
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
