"""Votes on a release, as a router counts them."""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter as Counted

import pytest

from loradeck.schemas.counts import BINS, CALLERS_OF_STEP, SECONDS_OF_VOTES
from loradeck_agent.router import votes
from loradeck_agent.router.counters import Counter
from loradeck_agent.router.response_checks import Verdict
from loradeck_agent.router.trace import Row
from loradeck_agent.router.votes import KEPT, REPETITION_S, Repetitions

KEY = ("acme", "production")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the module, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(votes.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(votes.time, "monotonic_ns", lambda: int(now[0] * 1e9))
    return now


def is_first(repetitions: Repetitions, caller: str, key: tuple[str, str], body: bytes) -> bool:
    return repetitions.is_first(repetitions.unit_of(caller, key, body))


def test_a_repetition_is_the_same_body_of_the_same_caller_within_a_minute(clock: list[float]) -> None:
    repetitions = Repetitions()
    body = b'{"messages": "Where is order 17?"}'
    assert is_first(repetitions, "ann", KEY, body)
    assert not is_first(repetitions, "ann", KEY, body)
    assert is_first(repetitions, "ann", KEY, body.replace(b"17", b"18"))
    assert is_first(repetitions, "ann", KEY, body.lower())
    assert is_first(repetitions, "ann", KEY, b"[" + body * 100)
    assert is_first(repetitions, "ann", KEY, b"{" + body * 100), "what differs may stand at the beginning"
    assert is_first(repetitions, "bob", KEY, body)
    assert is_first(repetitions, "ann", ("acme", "test"), body)
    clock[0] += REPETITION_S + 1
    assert is_first(repetitions, "ann", KEY, body)


def test_the_same_body_is_asked_anew_once_it_was_answered_well(clock: list[float]) -> None:
    repetitions = Repetitions()
    unit = repetitions.unit_of("ann", KEY, b"{}")
    assert repetitions.is_first(unit)
    assert not repetitions.is_first(unit)
    repetitions.answered_well(unit)
    assert repetitions.is_first(unit)
    assert not repetitions.is_first(unit)


def test_units_that_are_remembered_are_bounded(clock: list[float]) -> None:
    repetitions = Repetitions()
    for number in range(KEPT + 10):
        assert is_first(repetitions, str(number), KEY, b"{}")
    assert is_first(repetitions, "0", KEY, b"{}")  # forgotten
    assert not is_first(repetitions, str(KEPT + 9), KEY, b"{}")


def _row(number: int, *, voter: bool = True, sampled: bool = True) -> Row:
    at = time.monotonic_ns()
    return Row(str(number), *KEY, "a" * 64, 1, "e0", False, at, 0, sampled=sampled, voter=voter)


def test_an_outcome_is_booked_in_the_second_in_which_its_request_was_admitted(clock: list[float]) -> None:
    counter = Counter(*KEY, 1, "a" * 64, "e0")
    first = [_row(n) for n in range(3)]
    for row in first:
        counter.admit(row, "ann")
    clock[0] += 2
    later = _row(3, sampled=False)
    counter.admit(later, "bob")
    counter.leave(first[0], "failed")
    counter.leave(first[1], "answered")
    counter.judged(first[1], Verdict("empty"))
    traffic = counter.typed()
    assert traffic.votes == ((1000, 3, 1, 3, 1), (1002, 1, 0, 0, 0))
    assert traffic.callers == 2


def test_repetitions_count_as_requests_and_not_as_votes(clock: list[float]) -> None:
    counter, again = Counter(*KEY, 1, "a" * 64, "e0"), _row(1, voter=False)
    counter.admit(again, "ann")
    counter.leave(again, "failed")
    traffic = counter.typed()
    assert (traffic.attempted, traffic.errors, traffic.votes) == (1, 1, ())


def test_a_second_is_reported_for_a_while_after_its_last_change_and_forgotten_after_a_minute(
    clock: list[float],
) -> None:
    counter = Counter(*KEY, 1, "a" * 64, "e0")
    first = _row(1)
    counter.admit(first, "ann")
    counter.leave(first, "answered")
    clock[0] += 4
    assert len(counter.typed().votes) == 1
    clock[0] += 4
    assert counter.typed().votes == ()
    clock[0] += 60
    counter.admit(_row(2), "ann")
    assert [at for at, *_ in counter.typed().votes] == [1068]
    counter.judged(first, Verdict("empty"))
    assert [at for at, *_ in counter.typed().votes] == [1068], "nobody knows any longer what else that second had"


def test_an_answer_that_takes_longer_than_a_minute_and_is_bad_is_still_one_of_the_units_of_its_second(
    clock: list[float],
) -> None:
    counter = Counter(*KEY, 1, "a" * 64, "e0")
    long, quick = _row(1), _row(2)
    for row in (long, quick):
        counter.admit(row, "ann")
    counter.leave(quick, "answered")
    clock[0] += 90
    counter.admit(_row(3), "ann")
    counter.leave(long, "answered")
    clock[0] += 1
    counter.admit(_row(4), "ann")
    counter.judged(long, Verdict("empty"))
    assert (1000, 2, 0, 2, 1) in counter.typed().votes


def test_an_answer_that_fails_after_a_minute_is_still_one_of_the_units_of_its_second(clock: list[float]) -> None:
    counter, long = Counter(*KEY, 1, "a" * 64, "e0"), _row(1)
    counter.admit(long, "ann")
    clock[0] += 599
    counter.admit(_row(2), "ann")
    counter.leave(long, "failed")
    assert (1000, 1, 1, 1, 0) in counter.typed().votes


def test_an_outcome_after_ten_minutes_counts_in_no_second(clock: list[float]) -> None:
    counter, long = Counter(*KEY, 1, "a" * 64, "e0"), _row(1)
    counter.admit(long, "ann")
    clock[0] += 601
    counter.admit(_row(2), "ann")
    counter.leave(long, "failed")
    assert counter.typed().votes == ((1601, 1, 0, 1, 0),)
    assert counter.typed().errors == 1


def test_of_more_seconds_than_a_row_has_room_for_the_newest_changes_come_first_and_all_come(
    clock: list[float],
) -> None:
    """An engine dies under answers of nine minutes, which all fail at once."""
    counter, rows = Counter(*KEY, 1, "a" * 64, "e0"), list[Row]()
    for _ in range(540):
        rows.append(_row(len(rows)))
        counter.admit(rows[-1], "ann")
        clock[0] += 1
    for row in rows:
        counter.leave(row, "failed")
    fresh, times = list[list[int]](), Counted[int]()
    while votes := counter.typed().votes:
        assert len(votes) <= SECONDS_OF_VOTES
        assert all((units, failed) == (1, 1) for _, units, failed, *_ in votes)
        fresh.append([at for at, *_ in votes if not times[at]])
        times.update(at for at, *_ in votes)
        clock[0] += 1
    newest_first = list(range(1000, 1540))[::-1]
    assert [sorted(seconds) for seconds in fresh[:5]] == [sorted(newest_first[n : n + 128]) for n in range(0, 540, 128)]
    assert set(times) == set(newest_first)
    assert min(times.values()) >= 5, "a report that is lost loses nothing"


def test_what_has_just_changed_is_reported_before_what_is_reported_again(clock: list[float]) -> None:
    counter, rows = Counter(*KEY, 1, "a" * 64, "e0"), list[Row]()
    for _ in range(300):
        rows.append(_row(len(rows)))
        counter.admit(rows[-1], "ann")
        clock[0] += 1
    for row in rows:
        counter.leave(row, "failed")
    for _ in range(4):
        counter.typed()
        clock[0] += 1
    counter.admit(_row(300), "ann")
    votes = counter.typed().votes
    assert len(votes) == SECONDS_OF_VOTES
    assert (1304, 1, 0, 1, 0) in votes


def test_units_are_counted_by_steps_of_ten_seconds_and_bins_of_callers(clock: list[float]) -> None:
    counter = Counter(*KEY, 1, "a" * 64, "e0")
    ann, bob = [_row(n) for n in range(3)], [_row(n, sampled=False) for n in range(2)]
    for caller, rows in (("ann", ann), ("bob", bob)):
        for row in rows:
            counter.admit(row, caller)
    assert counter.typed().caller_votes == (), "nobody has a failed or bad unit"
    clock[0] += 12
    later, again = _row(9), _row(10, voter=False)
    for row in (later, again):
        counter.admit(row, "ann")
        counter.leave(row, "failed")
    counter.leave(ann[0], "failed")
    counter.leave(ann[1], "answered")
    counter.judged(ann[1], Verdict("empty"))
    ann_bin, bob_bin = zlib.crc32(b"ann") % BINS, zlib.crc32(b"bob") % BINS
    assert counter.typed().caller_votes == ((100, ann_bin, 3, 1, 3, 1), (101, ann_bin, 1, 1, 1, 0))
    clock[0] += 4
    counter.leave(bob[0], "failed")
    clock[0] += 4
    assert counter.typed().caller_votes == ((100, ann_bin, 3, 1, 3, 1), (100, bob_bin, 2, 1, 0, 0)), "whole steps"
    clock[0] += 2
    assert counter.typed().caller_votes == ()


def test_of_many_callers_with_bad_answers_those_with_the_most_are_named(clock: list[float]) -> None:
    counter = Counter(*KEY, 1, "a" * 64, "e0")
    callers = {zlib.crc32(name.encode()) % BINS: name for name in map(str, range(2000))}
    assert len(callers) == BINS
    for bin_, caller in callers.items():
        for number in range(bin_ + 1):
            row = _row(number)
            counter.admit(row, caller)
            counter.leave(row, "failed")
    most = range(BINS - CALLERS_OF_STEP, BINS)
    assert sorted(counter.typed().caller_votes) == [(100, bin_, bin_ + 1, bin_ + 1, bin_ + 1, 0) for bin_ in most]


def test_a_caller_may_name_a_user_that_no_text_can_hold(clock: list[float]) -> None:
    """JSON can write half of a surrogate pair."""
    counter, row = Counter(*KEY, 1, "a" * 64, "e0"), _row(1)
    counter.admit(row, json.loads(r'"key \ud800"'))
    counter.leave(row, "failed")
    assert [votes[2:] for votes in counter.typed().caller_votes] == [(1, 1, 1, 0)]


def test_steps_are_kept_as_long_as_their_seconds_and_come_whole_in_one_row(clock: list[float]) -> None:
    """Eight callers each ask once a second for nine minutes, and then every one of their answers fails."""
    counter, rows = Counter(*KEY, 1, "a" * 64, "e0"), list[Row]()
    callers = list({zlib.crc32(name.encode()) % BINS: name for name in map(str, range(2000))}.values())
    for _ in range(540):
        for caller in callers[:CALLERS_OF_STEP]:
            rows.append(_row(len(rows)))
            counter.admit(rows[-1], caller)
        clock[0] += 1
    for row in rows:
        counter.leave(row, "failed")
    reported = set[tuple[int, ...]]()
    for _ in range(4):
        votes = counter.typed().caller_votes
        assert len(votes) <= SECONDS_OF_VOTES
        assert all(n == CALLERS_OF_STEP for n in Counted(step for step, *_ in votes).values())
        reported |= set(votes)
        clock[0] += 1
    assert {step for step, *_ in reported} == set(range(100, 154))
    assert {votes[2:] for votes in reported} == {(10, 10, 10, 0)}
