"""Lies of a node about what it has served: one for each figure that guard, flags and causes are decided by.

A `Router` counts as an honest one does, and its node reports that, changed by one lie. `LIES` has them by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.waiting import until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from loradeck.schemas.counts import BINS, STEP_S, AskedAgain, StepOfCaller, Traffic
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Desired, Resync
from loradeck.schemas.replica_state import EngineState

ACME = ("acme", "production")
"""The route that most lies are about."""

UNITS, BAD = 20, 8
"""Units of a route on one node in a second, and those of them that are bad where its release is."""

MILLION = 10**6

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
        """Reports a second, and returns once the hub has read that, has ended the link, or lets the node link no more.

        `loads`: route -> units in that second and those that are bad; those left out have UNITS and none.
        """
        if self.agent.closed is not None and not await self._is_linked_anew():
            return
        rows = [self._row(of, at, *loads.get(of, (UNITS, 0))) for of in list(self.agent.entries)]
        moment, tables = Moment(at, at), self._tables()
        self.lie.engine(self.agent, moment)
        with contextlib.suppress(ConnectionClosed):
            await self.agent.report(*rows, router_boot=self.lie.boot(moment))
            await self.agent.send(Resync(why="to know that the report was read"))
        await until(lambda: self.agent.closed or self._tables() > tables, f"{self.agent.name} is heard")

    async def _is_linked_anew(self) -> bool:
        """Tells whether the hub took a new link; for a time it bars a node whose messages it refused."""
        await self.agent.leave()
        try:
            await self.agent.join()
        except InvalidStatus as refusal:
            if refusal.response.status_code != HTTPStatus.TOO_MANY_REQUESTS:
                raise
            return False
        return True

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


# ---- lies --------------------------------------------------------------------------------------------------------


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
