"""Pairs of answers to the same units, as a router counts them."""

from __future__ import annotations

import pytest

from loradeck.rules.quality.sampling import OPENING, TOGETHER
from loradeck_agent.router.votes import Outcome, Pair, Pairs, Rate

GOOD, BAD, FAILED, UNCHECKED = Outcome(False, False), Outcome(False, True), Outcome(True), Outcome(False)


@pytest.fixture
def clock() -> list[float]:
    """The clock of the pairs, in seconds."""
    return [1000.0]


@pytest.fixture
def pairs(clock: list[float]) -> Pairs:
    return Pairs("a" * 64, lambda: int(clock[0] * 1e9))


def begin(pairs: Pairs, given: Outcome | None = None, again: Outcome | None = None) -> Pair:
    pairs.asked()
    pair = pairs.begin(pairs._clock())
    pair.given, pair.again = given, again
    return pair


def figures(pairs: Pairs) -> tuple[int, tuple[int, int], int, tuple[int, int]]:
    said = pairs.typed()
    assert said is not None
    assert said.adds_up
    return said.pairs, said.failed, said.checked, said.bad


def test_pairs_count_in_the_order_of_their_admission(pairs: Pairs) -> None:
    first, second = begin(pairs), begin(pairs)
    second.given, second.again = BAD, GOOD  # it is over sooner, as bad answers are
    assert figures(pairs)[0] == 0
    first.given = GOOD
    assert figures(pairs)[0] == 0
    first.again = GOOD
    assert figures(pairs) == (2, (0, 0), 2, (1, 0))


def test_a_pair_that_says_nothing_holds_up_no_other(pairs: Pairs) -> None:
    first, second = begin(pairs), begin(pairs)
    second.given, second.again = GOOD, BAD
    first.dropped = True
    assert figures(pairs) == (1, (0, 0), 1, (0, 1))


def test_answers_are_compared_where_both_were_checked(pairs: Pairs) -> None:
    for given, again in ((FAILED, GOOD), (UNCHECKED, BAD), (BAD, FAILED)):
        pair = begin(pairs)
        pair.given, pair.again = given, again
    assert figures(pairs) == (3, (1, 1), 0, (0, 0))


def test_what_takes_longer_than_a_unit_is_waited_for_never_speaks_against_the_live_release(
    pairs: Pairs, clock: list[float]
) -> None:
    begin(pairs).given = BAD
    begin(pairs).again = GOOD
    clock[0] += 61
    assert figures(pairs) == (2, (0, 1), 2, (1, 1))


def test_the_first_units_after_a_move_are_all_asked_again_and_later_ones_a_share(
    pairs: Pairs, clock: list[float]
) -> None:
    def drawn() -> int:
        chosen = [pairs.begin(pairs._clock()).opening for _ in range(1000) if pairs.drawn(pairs._clock())]
        assert chosen == sorted(chosen, reverse=True)
        return sum(chosen)

    assert drawn() == OPENING
    clock[0] += 100
    assert drawn() == 0


def test_in_the_opening_a_long_answer_holds_up_the_others_only_until_most_are_over(pairs: Pairs) -> None:
    """It counts for the live release and against the one beneath, and once it is over nothing more."""
    long = [begin(pairs, given=BAD), begin(pairs, again=GOOD)]
    for _ in range(TOGETHER - 3):
        begin(pairs, BAD, GOOD)
    assert figures(pairs)[0] == 0
    begin(pairs, BAD, GOOD)
    assert figures(pairs) == (1, (0, 1), 1, (1, 1)), "the second is not the oldest of twenty yet"
    begin(pairs, BAD, GOOD)
    assert figures(pairs) == (21, (0, 1), 21, (20, 1))
    for pair in long:
        pair.given, pair.again = BAD, GOOD
    assert figures(pairs) == (21, (0, 1), 21, (20, 1))


def test_after_the_opening_each_answer_is_waited_for(pairs: Pairs) -> None:
    for _ in range(OPENING):
        begin(pairs, GOOD, GOOD)
    assert figures(pairs)[0] == OPENING
    begin(pairs, given=BAD)
    for _ in range(2 * TOGETHER):
        begin(pairs, GOOD, GOOD)
    assert figures(pairs)[0] == OPENING


def test_nothing_is_reported_before_anything_was_asked_or_shed(pairs: Pairs) -> None:
    assert pairs.typed() is None
    pairs.shed()
    assert pairs.typed() is not None


def test_pairs_are_let_go_once_they_are_over_though_nobody_reads_them(pairs: Pairs) -> None:
    for _ in range(1000):
        pair = begin(pairs)
        pair.given = pair.again = GOOD
    assert len(pairs._open) == 1


def test_the_rate_is_that_of_the_last_second_or_of_this_one() -> None:
    rate, second = Rate(), 10**9
    assert [rate.counted(5 * second) for _ in range(3)] == [1, 2, 3]
    assert rate.counted(6 * second) == 3
    assert rate.counted(7 * second) == 1
    assert rate.counted(20 * second) == 1


def test_beside_a_shadow_an_answer_that_takes_long_speaks_against_nobody_unless_the_live_one_was_quick(
    clock: list[float],
) -> None:
    pairs = Pairs("a" * 64, lambda: int(clock[0] * 1e9), shadow=True)

    def after(seconds: float) -> Outcome:
        return Outcome(failed=False, bad=False, at_ns=int((1000.0 + seconds) * 1e9))

    begin(pairs, given=after(29))  # the candidate hangs
    begin(pairs, given=after(50))
    begin(pairs, again=after(50))
    begin(pairs)
    for _ in range(TOGETHER):
        begin(pairs, given=after(1), again=after(1))
    clock[0] += 59
    assert figures(pairs)[0] == 0, "no pair is counted before it is over, also not among the first"
    clock[0] += 2
    assert figures(pairs) == (TOGETHER + 1, (0, 1), TOGETHER + 1, (0, 1))
