"""Votes on a release, as a router counts them."""

from __future__ import annotations

import time

import pytest

from loradeck_agent.router import votes
from loradeck_agent.router.counters import Counter
from loradeck_agent.router.response_checks import Verdict
from loradeck_agent.router.trace import Row
from loradeck_agent.router.votes import KEPT, REPETITION_S, Repetitions, Votes

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
    held = Votes()
    held.admitted(int(clock[0] * 1e9), "ann", sampled=True)
    clock[0] += 4
    assert len(held.changed()) == 1
    clock[0] += 4
    assert held.changed() == ()
    clock[0] += 60
    held.admitted(int(clock[0] * 1e9), "ann", sampled=True)
    assert [at for at, *_ in held.changed()] == [1068]
