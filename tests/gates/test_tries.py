"""Whoever tries several candidates on one suite passes no more often, in all, than a point above what is promised."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from tests.fleets.in_process.log import digest, rid
from tests.gates.near_copies import Shape, outcomes

from loradeck.rules.quality.comparison import Counts, Pairs, within
from loradeck.rules.quality.statistics import ALPHA
from loradeck.rules.quality.tries import FURTHER, level, number_of
from loradeck.schemas.attestation import CheckResult, Look
from loradeck.schemas.gate import SuiteGate

TRIES, LINES = 5, 20_000


@cache
def passes(lost: int, won: int, n: int, limit: float, alpha: float) -> bool:
    counts = Counts(lost, won, n)
    return within(
        Pairs(counts, counts, lost, won), SuiteGate(suite=digest("s"), max_drop=limit, bound_drop=True), alpha
    )


@pytest.mark.parametrize(("n", "limit", "differ"), [(246, 0.05, 0.10), (246, 0.05, 0.20), (100, 0.10, 0.20)])
def test_of_lines_of_five_candidates_that_all_lose_the_limit_few_pass_one(n: int, limit: float, differ: float) -> None:
    """At the level of a first try, 22 to 23 % of such lines passed one."""
    every = Shape(n, n + 1)
    passed, before = np.zeros(LINES, bool), np.zeros(LINES, bool)
    for number in range(1, TRIES + 1):
        lost, won = outcomes(every, LINES, drop=limit, differ=differ, alike=1.0, seed=number)
        counts = list(zip(lost.sum(axis=1).tolist(), won.sum(axis=1).tolist(), strict=True))
        passed |= [passes(*one, n, limit, level(number)) for one in counts]
        before |= [passes(*one, n, limit, ALPHA) for one in counts]
    assert before.mean() > 0.2
    assert 0.04 <= passed.mean() <= 0.06


def test_all_further_tries_together_have_one_point_however_many_there_are() -> None:
    assert [level(1), level(2), level(3)] == [ALPHA, pytest.approx(0.005), pytest.approx(0.01 / 6)]
    assert sum(level(number) for number in range(2, 100_000)) < FURTHER
    assert sum(level(number) for number in range(2, 100_000)) == pytest.approx(FURTHER, rel=1e-4)


LIVE, ANCHOR, WENT_LIVE = rid("v1"), rid("v0"), 1_000


def looks(*seen: tuple[str, int, int]) -> list[Look]:
    return [Look(rid(label), seq, at_ms) for label, seq, at_ms in seen]


def test_a_release_keeps_its_number_whatever_is_tried_after_it_or_again() -> None:
    evaluated = looks(("v2", 5, 1_001), ("v3", 6, 1_002))
    for later in ([], looks(("v4", 7, 1_003)), looks(("v2", 7, 1_003), ("v3", 8, 1_004))):
        found = [number_of(rid(v), evaluated + later, [], WENT_LIVE, [LIVE, ANCHOR]) for v in ("v2", "v3")]
        assert found == [1, 2]
    assert number_of(rid("v9"), evaluated, [], WENT_LIVE, [LIVE, ANCHOR]) == 3, "it is the next one"


def test_what_is_only_compared_with_and_what_was_tried_before_the_live_release_are_no_tries() -> None:
    evaluated = looks(("v7", 2, 900), ("v1", 3, 1_100), ("v0", 4, 1_100), ("v2", 5, 1_200))
    assert number_of(rid("v2"), evaluated, [], WENT_LIVE, [LIVE, ANCHOR]) == 1


def test_a_release_of_an_earlier_line_is_a_try_of_this_one_once_it_is_judged_in_it() -> None:
    """Else five that were evaluated beside each other would each be a first try, once one of them is live."""
    evaluated, judged = looks(("v2", 1, 900), ("v3", 2, 900), ("v4", 5, 1_200)), looks(("v3", 4, 1_100))
    found = [number_of(rid(v), evaluated, judged, WENT_LIVE, [LIVE, ANCHOR]) for v in ("v3", "v4", "v2")]
    assert found == [1, 2, 3]


@pytest.mark.parametrize(
    ("tried", "alpha", "words"),
    [
        (None, None, ""),
        (3, 0.01 / 6, "third try on this suite; judged at 0.17 %"),
        (3, None, "third try on this suite"),
        (11, 0.01 / 110, "try 11 on this suite; judged at 0.0091 %"),
    ],
)
def test_a_check_says_which_try_it_was(tried: int | None, alpha: float | None, words: str) -> None:
    check = CheckResult(
        name="drop", passed=True, value=0, threshold=0.05, n=246, low=0, high=0, tried=tried, level=alpha
    )
    assert check.tries == words
