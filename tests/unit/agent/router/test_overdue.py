"""After how long an answer is overdue, and which units are, on clocks that the tests set."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator

import pytest

from loradeck.schemas.counts import Traffic
from loradeck_agent.router.counters import Counter, End, Stats
from loradeck_agent.router.overdue import FEWEST, KEPT, PERIOD_NS, Durations
from loradeck_agent.router.trace import Row

S = 10**9
HOUR_S = 3600


def usual(at_s: float, chance: random.Random) -> float:
    """Three seconds are the median, and some 15 the 99th percentile."""
    return chance.lognormvariate(1.1, 0.7)


def running_on(from_s: float, until_s: float) -> Callable[[float, random.Random], float]:
    """In that time, 30 % of the answers run on for two minutes."""

    def took(at_s: float, chance: random.Random) -> float:
        return 120 if from_s <= at_s < until_s and chance.random() < 0.3 else usual(at_s, chance)

    return took


def traffic(
    rate: float, until_s: float, took: Callable[[float, random.Random], float]
) -> Iterator[tuple[float, Durations]]:
    """Answers of one kind, as their requests come by chance: when each was admitted, and the durations by then."""
    chance, durations, under_way, at_s = random.Random(7), Durations(), list[tuple[float, float]](), 1.0
    while at_s < until_s:
        at_s += chance.expovariate(rate)
        while under_way and under_way[0][0] <= at_s:
            ended_s, admitted_s = heapq.heappop(under_way)
            durations.answered(int(admitted_s * S), int(ended_s * S))
        durations.admitted(int(at_s * S))
        heapq.heappush(under_way, (at_s + took(at_s, chance), at_s))
        yield at_s, durations


def seen(
    rate: float, until_s: float, took: Callable[[float, random.Random], float], at: tuple[float, ...]
) -> list[float]:
    """The seconds after which an answer was overdue, at these times."""
    wanted, found = list(at), list[float]()
    for at_s, durations in traffic(rate, until_s, took):
        while wanted and wanted[0] <= at_s:
            found.append(durations.overdue_after_ns / S)
            wanted.pop(0)
    return found


def one_by_one(durations: Durations, at_ns: int, *took_ns: int) -> int:
    """Answers each of which begins with the end of the one before. Returns when the last one ends."""
    for ns in took_ns:
        durations.admitted(at_ns)
        durations.answered(at_ns, at_ns + ns)
        at_ns += ns
    return at_ns


def test_nothing_is_overdue_before_200_answers_have_come_and_then_after_one_and_a_half_99th_percentiles() -> None:
    durations = Durations()
    at_ns = one_by_one(durations, S, *[2 * S] * (FEWEST - 3), *[40 * S] * 2)
    assert durations.admitted(at_ns) == 0
    durations.broken_off()
    one_by_one(durations, at_ns, 2 * S)
    assert 1.5 * 2 <= durations.overdue_after_ns / S <= 1.5 * 2 * 1.1, (
        "two of 200 are longer, which is one in a hundred"
    )
    assert durations.admitted(500 * S) == 500 * S + durations.overdue_after_ns


def test_nothing_is_overdue_within_a_second() -> None:
    durations = Durations()
    one_by_one(durations, S, *[5 * 10**6] * FEWEST)
    assert durations.overdue_after_ns == S


def test_the_first_answers_to_end_do_not_say_what_is_usual_while_longer_ones_are_under_way() -> None:
    """One in twenty takes a minute, and the others a tenth of a second: 200 of these have come within two seconds."""

    def took(at_s: float, chance: random.Random) -> float:
        return 60 if chance.random() < 0.05 else 0.1

    known = [(at_s, of.overdue_after_ns) for at_s, of in traffic(100, 600, took) if of.overdue_after_ns]
    assert known
    assert min(after_ns for _, after_ns in known) >= 1.5 * 60 * S


@pytest.mark.parametrize("rate", [0.2, 1, 20])
def test_ten_minutes_of_answers_that_run_on_change_nothing(rate: float) -> None:
    at = 3 * HOUR_S
    times = (at, *(at + 60 * minutes for minutes in range(1, 40)))
    before, *after = seen(rate, at + HOUR_S, running_on(at, at + 600), times)
    assert 20 < before < 35
    assert max(after) < 1.25 * before


def test_answers_that_run_on_from_the_sixth_minute_of_a_router_are_overdue_as_long_as_they_do() -> None:
    before, *within = seen(20, 1000, running_on(360, 960), (360, *range(370, 960, 10)))
    assert 20 < before < 35
    assert max(within) < 1.25 * before


def test_a_lasting_change_is_learnt_within_a_day_and_not_within_an_hour() -> None:
    def longer(at_s: float, chance: random.Random) -> float:
        return usual(at_s, chance) * (3 if at_s > 30 * HOUR_S else 1)

    def shorter(at_s: float, chance: random.Random) -> float:
        return usual(at_s, chance) / (3 if at_s > 30 * HOUR_S else 1)

    for took, within in ((longer, (60, 105)), (shorter, (6, 12))):
        before, hour, day = seen(0.2, 55 * HOUR_S, took, tuple(HOUR_S * hours for hours in (30, 31, 54)))
        assert 20 < before < 35
        assert hour == pytest.approx(before, rel=0.25)
        assert within[0] < day < within[1]


def test_what_is_usual_by_day_is_not_overdue_after_a_night() -> None:
    def took(at_s: float, chance: random.Random) -> float:
        return usual(at_s, chance) * (3 if at_s % (24 * HOUR_S) < 12 * HOUR_S else 1)

    night, morning = seen(0.2, 49 * HOUR_S, took, (47 * HOUR_S, 48 * HOUR_S))
    assert min(night, morning) > 60


def test_what_durations_take_in_memory_does_not_grow() -> None:
    durations, at_ns = Durations(), S
    for _ in range(2 * KEPT):
        at_ns = one_by_one(durations, at_ns, *[PERIOD_NS // FEWEST] * FEWEST)
    assert len(durations._periods) == KEPT
    assert durations.admitted(at_ns) - at_ns <= 1.5 * 3600 * S


class Clock:
    """A counter and its rows on the clock of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, counter: Counter | None = None) -> None:
        self.now_ns = 1000 * S
        monkeypatch.setattr("time.monotonic_ns", lambda: self.now_ns)
        self.counter = counter or Counter("acme", "production", 1, "a" * 64, "e0")

    def admit(self, *, streamed: bool = True, voter: bool = True) -> Row:
        fields = (self.counter.tenant, self.counter.route, self.counter.release, 1, "e0")
        row = Row("r", *fields, streamed, self.now_ns, 0, voter=voter)
        self.counter.admit(row, "ann")
        return row

    def end(self, row: Row, end: End = "answered", status: int = 200) -> None:
        row.finished_ns, row.status = self.now_ns, status
        self.counter.leave(row, end)

    def answer(self, times: int, *, ms: int, streamed: bool = True, status: int = 200) -> None:
        """Requests one by one that take so long each."""
        for _ in range(times):
            row = self.admit(streamed=streamed)
            self.now_ns += ms * 10**6
            self.end(row, status=status)

    def report_at(self, second: int) -> Traffic:
        self.now_ns = second * S
        return self.counter.typed()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def learnt(clock: Clock) -> Clock:
    """Streamed answers are overdue after a bit more than three seconds. No unit is under way."""
    clock.answer(FEWEST, ms=2000)
    clock.now_ns += 100 * S
    clock.now_ns -= clock.now_ns % S
    assert 3000 < clock.counter.durations.overdue_ms[0] < 3300
    return clock


def test_a_unit_is_counted_in_the_second_after_it_would_be_overdue_whatever_came_of_it(learnt: Clock) -> None:
    at = learnt.now_ns // S
    rows = [learnt.admit() for _ in range(4)]
    learnt.now_ns += S
    later = learnt.admit()
    learnt.end(rows[0])
    learnt.end(rows[1], "failed", 502)
    assert learnt.report_at(at + 3).overdue_votes == ()
    assert learnt.report_at(at + 4).overdue_votes == ((at + 4, 4, 2),)
    learnt.end(rows[2])
    assert learnt.report_at(at + 5).overdue_votes == ((at + 4, 4, 2), (at + 5, 1, 1)), "what ends late was overdue"
    learnt.end(rows[3], "failed", 502)
    learnt.end(later)
    assert learnt.report_at(at + 9).overdue_votes == ((at + 4, 4, 2), (at + 5, 1, 1))
    assert learnt.report_at(at + 11).overdue_votes == ()


@pytest.mark.parametrize("end", ["given_up", "taken_back"])
def test_a_unit_that_nobody_waits_for_any_longer_is_none_and_after_that_time_it_is_overdue(
    learnt: Clock, end: End
) -> None:
    at = learnt.now_ns // S
    early, late = learnt.admit(), learnt.admit()
    learnt.now_ns += 2 * S
    learnt.end(early, end, 499)
    learnt.now_ns += 3 * S
    learnt.end(late, end, 499)
    assert learnt.report_at(at + 5).overdue_votes == ((at + 4, 1, 1),)


def test_repetitions_are_neither_overdue_nor_in_time(learnt: Clock) -> None:
    at = learnt.now_ns // S
    learnt.admit(voter=False)
    assert learnt.report_at(at + 5).overdue_votes == ()


def test_a_unit_is_judged_by_what_was_usual_at_its_admission(learnt: Clock) -> None:
    at = learnt.now_ns // S
    learnt.admit()
    learnt.counter.durations.streamed.overdue_after_ns = 60 * S
    learnt.admit()
    assert learnt.report_at(at + 5).overdue_votes == ((at + 4, 1, 1),)
    assert learnt.report_at(at + 60).overdue_votes == ((at + 60, 1, 1),)


def test_streamed_answers_and_whole_ones_have_durations_of_their_own(learnt: Clock) -> None:
    assert learnt.report_at(learnt.now_ns // S).overdue_ms[1] == 0
    learnt.answer(FEWEST, ms=8000, streamed=False)
    streamed, whole = learnt.counter.typed().overdue_ms
    assert 3000 < streamed < 3300
    assert 12000 < whole < 13200


@pytest.mark.parametrize("status", [400, 502])
def test_what_is_no_answer_has_no_duration(clock: Clock, status: int) -> None:
    clock.answer(2 * FEWEST, ms=2000, status=status)
    assert clock.counter.typed().overdue_ms == (0, 0)


def test_an_answer_that_was_overdue_counts_with_all_the_time_it_took(learnt: Clock) -> None:
    learnt.answer(20 * FEWEST, ms=40_000)
    assert learnt.counter.typed().overdue_ms[0] > 60_000


def test_the_releases_and_replicas_of_a_route_share_its_durations_and_no_other_route_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stats = Stats()
    clock = Clock(monkeypatch, stats.counter("acme", "production", 1, "a" * 64, "e0"))
    clock.answer(FEWEST, ms=2000)
    assert 3000 < stats.counter("acme", "production", 2, "b" * 64, "e1").typed().overdue_ms[0] < 3300
    assert stats.counter("acme", "test", 1, "a" * 64, "e0").typed().overdue_ms == (0, 0)


def test_seconds_that_were_decided_are_let_go(learnt: Clock) -> None:
    for _ in range(500):
        learnt.admit()
        learnt.now_ns += S
    assert len(learnt.counter.overdue._seconds) < 15
