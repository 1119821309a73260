"""Breach, soak, and whether the release is at fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.quality.health import Judged, breach_by_node, breached, cause, newly_soaked, shared_cause, soaked
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.counts import AskedAgain, Counts
from loradeck.schemas.route import BreachLimit, Soak

LIMIT = BreachLimit(bad=0.10, errors=0.05, n=50)


def answers(bad: int, checked: int) -> Counts:
    return Counts.over(finished=checked, checked=checked, bad=bad)


def errors(count: int, requests: int) -> Counts:
    return Counts.over(failed=count, finished=requests - count)


@pytest.mark.parametrize(
    ("health", "said"),
    [
        (answers(5, 50), None),  # at the limit is not past it
        (answers(6, 50), "bad 12.0% of 50"),
        (answers(49, 49), None),  # too few yet
        (errors(2, 50), None),
        (errors(3, 50), "errors 6.0% of 50"),
        (Counts.over(failed=50, finished=100, checked=60, bad=30), "bad 50.0% of 60"),
        (Counts(), None),
        (Counts.over(failed=120), "errors 100.0% of 120"),  # it finishes nothing, and so has nothing to check
        (Counts.over(failed=49), None),
        (Counts.over(refused=36_000, failed=60), "errors 100.0% of 60"),  # refused ones are no answers of the release
        (Counts.over(refused=110), None),
        (Counts(attempted=1000), None),  # in flight
    ],
)
def test_a_release_is_breached_once_a_share_passes_its_limit_over_enough_answers(
    health: Counts, said: str | None
) -> None:
    breach = breached(health, LIMIT)
    assert (str(breach) if breach else None) == said


def judged(by_node: dict[str, Counts], *placed: str) -> Judged:
    return breach_by_node(sum(by_node.values(), Counts()), by_node, placed or by_node, LIMIT)


@pytest.mark.parametrize(
    ("by_node", "placed", "said", "alone"),
    [
        ({"n1": answers(30, 100), "n2": answers(25, 100)}, (), "bad 27.5% of 200", ""),
        ({"n1": answers(30, 100), "n2": answers(1, 100)}, (), None, "n1"),  # the others are fine
        ({"n1": answers(9999, 10_000), "n2": answers(1, 100), "n3": answers(2, 100)}, (), None, "n1"),
        ({"n1": answers(9999, 10_000)}, ("n1", "n2"), None, "n1"),  # the others have said nothing yet
        ({"n1": answers(9999, 10_000), "n2": answers(9, 49)}, (), None, "n1"),  # nor enough
        ({"n1": answers(30, 100)}, (), "bad 30.0% of 100, by n1 alone", "n1"),  # placed nowhere else
        ({"n1": answers(30, 100)}, ("n2",), None, "n1"),  # it speaks of what only another one serves
        ({f"n{i}": answers(2, 5) for i in range(20)}, (), "bad 40.0% of 100", ""),
        ({"n1": errors(60, 100), "n2": answers(40, 100)}, (), "bad 40.0% of 100", ""),  # both fail, each in its way
        ({"n1": answers(1, 100), "n2": answers(1, 100)}, (), None, ""),
        ({"n1": answers(9, 9)}, (), None, ""),
    ],
)
def test_a_breach_counts_where_nodes_agree_and_one_nodes_word_is_named(
    by_node: dict[str, Counts], placed: tuple[str, ...], said: str | None, alone: str
) -> None:
    found = judged(by_node, *placed)
    assert (str(found.breach) if found.breach else None, found.alone) == (said, alone)


@given(
    honest=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 200)), min_size=1, max_size=6),
    lie=st.integers(0, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
)
def test_no_figures_of_one_node_breach_a_release_that_is_fine_by_all_others(
    honest: list[tuple[int, int]], lie: tuple[int, int]
) -> None:
    by_node = {f"n{i}": answers(min(bad, n // 10), n) for i, (bad, n) in enumerate(honest)}
    assert judged(by_node | {"liar": answers(*lie)}).breach is None


@pytest.mark.parametrize(
    ("seconds", "requests", "done"), [(600, 200, True), (599.9, 200, False), (600, 199, False), (6000, 0, False)]
)
def test_soaking_takes_time_and_requests(seconds: float, requests: int, done: bool) -> None:
    assert soaked(seconds, requests, Soak()) is done


def test_an_interval_is_the_one_of_the_textbook() -> None:
    low, high = wilson(10, 50)
    assert (round(low, 4), round(high, 4)) == (0.1124, 0.3304)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == 1.0
    with pytest.raises(ValueError, match="not a share"):
        wilson(3, 2)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share(share: tuple[int, int]) -> None:
    k, n = share
    low, high = wilson(k, n)
    assert 0.0 <= low <= k / n <= high <= 1.0


FINE, BAD = answers(4, 1000), answers(310, 1000)
ALIKE = {"gpu-01": answers(155, 500), "gpu-02": answers(155, 500)}
ONE_SIDED = {"gpu-01": answers(300, 500), "gpu-02": answers(10, 500)}


@pytest.mark.parametrize(
    ("live", "prior", "by_replica", "others", "base", "verdict"),
    [
        (BAD, FINE, ALIKE, FINE, None, "release"),
        (BAD, FINE, {}, None, None, "release"),
        (BAD, FINE, ONE_SIDED, FINE, None, "node"),
        (BAD, FINE, ALIKE, BAD, None, "base"),
        (BAD, FINE, {"gpu-01": BAD}, BAD, None, "node"),
        (BAD, FINE, {"gpu-01": BAD}, BAD, BAD, "base"),
        (FINE, FINE, ALIKE, FINE, FINE, "fine"),
        (BAD, BAD, ALIKE, FINE, FINE, "fine"),  # it was no better before
        (BAD, None, ALIKE, FINE, FINE, "release"),
        (BAD, None, ALIKE, FINE, BAD, "fine"),  # the base alone is no better
        (BAD, None, ALIKE, FINE, None, "release"),  # the neighbours on the same base and nodes are fine
        (BAD, None, {"gpu-01": BAD}, FINE, None, "release"),
        (BAD, None, ONE_SIDED, FINE, None, "node"),
        (BAD, None, ALIKE, BAD, None, "unknown"),  # all are alike, and nothing says how it was before
        (BAD, None, ALIKE, None, None, "unknown"),
        (BAD, answers(0, 49), ALIKE, None, None, "unknown"),  # a prior with too few answers is none
        (answers(49, 49), FINE, {}, FINE, FINE, "too_few"),
        (Counts(), FINE, {}, None, None, "too_few"),
        (errors(200, 1000), errors(2, 1000), {}, errors(2, 1000), None, "release"),
        (errors(1, 1000), errors(2, 1000), {}, errors(2, 1000), None, "fine"),
        (
            Counts.over(failed=300, finished=1000, checked=1000, bad=4),
            Counts.over(failed=3, finished=1000, checked=1000, bad=4),
            {},
            None,
            None,
            "release",
        ),
    ],
)
def test_the_cause_is_what_the_figures_tell_apart(
    live: Counts,
    prior: Counts | None,
    by_replica: dict[str, Counts],
    others: Counts | None,
    base: Counts | None,
    verdict: str,
) -> None:
    assert cause(live, prior, by_replica, others, base).verdict == verdict


@pytest.mark.parametrize(
    ("by_replica", "figure", "said"),
    [
        (ALIKE, "bad", "their base"),
        (ONE_SIDED, "bad", "the replica gpu-01"),
        ({"gpu-01": BAD}, "bad", "their node or their base"),
        ({"gpu-01": BAD, "gpu-02": answers(1, 4)}, "bad", "their node or their base"),  # too few to say
        ({"gpu-01": errors(1, 200), "gpu-02": errors(90, 200)}, "errors", "the replica gpu-02"),
    ],
)
def test_what_bad_neighbours_share_is_the_replica_that_stands_out_or_their_base(
    by_replica: dict[str, Counts], figure: str, said: str
) -> None:
    assert shared_cause(by_replica, figure) == said


@pytest.mark.parametrize(
    ("pairs", "bad", "prior", "verdict"),
    [
        (200, (60, 58), FINE, "requests"),  # what was good for years is as bad on what is asked now
        (200, (60, 2), FINE, "release"),
        (200, (60, 25), FINE, "release"),
        (49, (15, 15), FINE, "release"),  # too few pairs
        (200, (60, 58), None, "release"),  # how it was before is not known
    ],
)
def test_where_the_release_beneath_is_as_bad_on_the_same_requests_they_are_the_cause(
    pairs: int, bad: tuple[int, int], prior: Counts | None, verdict: str
) -> None:
    again = AskedAgain(release="b" * 64, asked=pairs, pairs=pairs, checked=pairs, bad=bad)
    assert cause(BAD, prior, ALIKE, FINE, None, again).verdict == verdict
    if verdict == "requests":
        assert cause(BAD, prior, ONE_SIDED, FINE, None, again).verdict == "node"
        assert cause(BAD, prior, ALIKE, BAD, None, again).verdict == "base"
        assert cause(FINE, prior, ALIKE, FINE, None, again).verdict == "fine"


def test_only_releases_that_have_served_enough_and_were_not_known_to_have_soaked_are_new() -> None:
    served = {"old": (900.0, 900), "known": (900.0, 900), "short": (599.0, 900), "few": (900.0, 199)}
    assert newly_soaked(served, {"known"}, Soak(), served.__getitem__) == ("old",)
    assert newly_soaked(served, {"known"}, Soak(seconds=0, requests=0), served.__getitem__) == ("old", "short", "few")
