"""Near copies among a suite's items do not let releases pass more often than the gate promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.fleets.in_process.log import digest, rid
from tests.gates.near_copies import Shape, outcomes, write_suite

from loradeck.artifacts.rows.suite_items import groups_in
from loradeck.rules.errors import Refused
from loradeck.rules.quality import gates
from loradeck.rules.quality.comparison import Counts, Pairs, items_for_drop, within
from loradeck.rules.quality.gates import GateRecords
from loradeck.rules.quality.statistics import drop_bound, mcnemar, paired_bootstrap
from loradeck.schemas.attestation import EvaluationReport, GateResult, ItemResult
from loradeck.schemas.gate import GateConfig, SuiteGate
from loradeck.schemas.suite import Groups

SUITE = digest("suite")

ANSWERS = {exact: [ItemResult(id=f"i{n}", answer="", exact=exact, valid=True) for n in range(500)] for exact in (0, 1)}
"""Whether it is right -> the answer to each item."""


def report(label: str, exact: list[bool]) -> EvaluationReport:
    items = tuple(ANSWERS[right][n] for n, right in enumerate(exact))
    return EvaluationReport.model_construct(
        release=rid(label), suite=SUITE, n=len(items), exact=sum(exact), valid=len(items), items=items, seconds=1.0
    )


def judged(lost: list[bool], won: list[bool], groups: Groups, max_drop: float) -> GateResult:
    """The gate's result where the live release has right what is lost, wrong what is won, and the others right."""
    live, candidate = report("v1", [not one for one in won]), report("v2", [not one for one in lost])
    records = GateRecords(reports={SUITE: candidate}, live={SUITE: live}, groups={SUITE: groups})
    config = GateConfig(suite=SUITE, max_drop=max_drop, bound_drop=True)
    return gates.judge(candidate.release, live.release, config, records)


@pytest.mark.parametrize("size", [10, 30])
def test_a_candidate_that_loses_the_limit_passes_no_more_often_where_items_are_near_copies(
    tmp_path: Path, size: int
) -> None:
    """A fifth passed, where one in twenty is promised."""
    shape, draws = Shape(246, size), 300
    write_suite(tmp_path / "suite.jsonl", shape, seed=1)
    groups = groups_in({"suite.jsonl": tmp_path / "suite.jsonl"})
    lost, won = outcomes(shape, draws, drop=0.1, differ=0.2, alike=1.0, seed=2)
    passed = sum(judged(a.tolist(), b.tolist(), groups, 0.1).passed for a, b in zip(lost, won, strict=True))
    assert passed / draws <= 0.08, "by chance three points more than the one in twenty"


def counts_of(shape: Shape, lost: NDArray[np.bool_], won: NDArray[np.bool_]) -> Iterator[Pairs]:
    """Counts many draws at once, as `Pairs.of` counts one."""
    starts = np.flatnonzero(np.diff(shape.places, prepend=-1))
    sizes = np.diff(starts, append=shape.items)
    inside = [np.add.reduceat(one, starts, axis=1, dtype=np.int64) for one in (lost, won)]
    means = [(one / sizes).sum(axis=1) for one in inside]
    sums = [one.sum(axis=1) for one in inside]
    worse, better = (inside[0] > inside[1]).sum(axis=1), (inside[1] > inside[0]).sum(axis=1)
    for row in range(len(lost)):
        yield Pairs(
            items=Counts(int(sums[0][row]), int(sums[1][row]), shape.items),
            clusters=Counts(round(float(means[0][row]), 9), round(float(means[1][row]), 9), shape.questions),
            worse=int(worse[row]),
            better=int(better[row]),
        )


GRID = [
    (Shape(n, size), drop, differ, alike)
    for n, drop, differ in ((100, 0.10, 0.20), (246, 0.10, 0.20), (246, 0.07, 0.10), (500, 0.05, 0.10))
    for size in (10, 30)
    for alike in (1.0, 0.7)
]


@pytest.mark.parametrize(("shape", "drop", "differ", "alike"), GRID)
def test_the_error_at_the_limit_is_within_a_point_of_what_is_promised(
    shape: Shape, drop: float, differ: float, alike: float
) -> None:
    draws, part = 8000, SuiteGate(suite=SUITE, max_drop=drop, bound_drop=True)
    lost, won = outcomes(shape, draws, drop=drop, differ=differ, alike=alike, seed=3)
    kinds = Counter(counts_of(shape, lost, won))
    passed = sum(number for pairs, number in kinds.items() if within(pairs, part))
    assert 0.03 <= passed / draws <= 0.06
    assert shape.questions >= items_for_drop(drop, 0.10), "the suite decides: it is not refused as too small"


@pytest.mark.parametrize("shape", [Shape(246, 10), Shape(500, 30)])
def test_many_draws_are_counted_as_the_gate_counts_one(tmp_path: Path, shape: Shape) -> None:
    write_suite(tmp_path / "suite.jsonl", shape, seed=4)
    near = groups_in({"suite.jsonl": tmp_path / "suite.jsonl"}).near
    assert shape.items - len(near) == shape.questions
    lost, won = outcomes(shape, 20, drop=0.1, differ=0.2, alike=0.7, seed=5)
    for row, counted in enumerate(counts_of(shape, lost, won)):
        pairs = Pairs.of({f"i{n}": (not won[row][n], not lost[row][n]) for n in range(shape.items)}, near)
        assert pairs.items == counted.items
        assert pairs.clusters == pytest.approx(counted.clusters)
        assert (pairs.worse, pairs.better) == (counted.worse, counted.better)


def test_near_copies_that_leave_a_suite_too_small_are_refused_with_the_size_that_would_do(tmp_path: Path) -> None:
    shape = Shape(246, 10)
    write_suite(tmp_path / "suite.jsonl", shape, seed=6)
    groups = groups_in({"suite.jsonl": tmp_path / "suite.jsonl"})
    check = next(c for c in judged([False] * 246, [False] * 246, groups, 0.05).checks if c.name == "drop")
    assert (check.passed, check.too_small, check.n, check.effective, check.needed) == (False, True, 246, 183, 246)
    assert check.note.startswith(
        "suite too small: 246 shared items, 183 of which count (near copies are one), 246 are needed to see a drop of "
        "5.0%, and 331 with as many near copies"
    )
    assert check.measured.endswith("n = 246, effectively 183)")
    config = GateConfig(suite=SUITE, max_drop=0.05, bound_drop=True)
    with pytest.raises(Refused) as refused:
        gates.require_big_enough(config, {SUITE: 246}, {SUITE: groups})
    assert refused.value.context == {"suite": SUITE, "items": 183, "needed": 246}
    assert "63 of its 246 items nearly repeat another" in refused.value.detail
    assert "one of 331 items like these, or with 63 other questions" in refused.value.fix
    gates.require_big_enough(config, {SUITE: 246}, {SUITE: Groups()})


def test_a_form_that_is_lost_whole_fails_though_its_near_copies_are_few_clusters(tmp_path: Path) -> None:
    """By cluster a fiftieth is lost, and by item three tenths."""
    shape = Shape(500, 30)
    write_suite(tmp_path / "suite.jsonl", shape, seed=7)
    groups = groups_in({"suite.jsonl": tmp_path / "suite.jsonl"})
    lost = [n < 150 for n in range(500)]
    check = next(c for c in judged(lost, [False] * 500, groups, 0.05).checks if c.name == "drop")
    assert (check.passed, check.too_small, check.value, check.lost) == (False, False, 0.3, 150)


@pytest.mark.parametrize("seed", range(20))
def test_without_near_copies_a_gate_decides_as_by_items_alone(seed: int) -> None:
    lost, won = outcomes(Shape(246, 500), 1, drop=0.03, differ=0.10, alike=1.0, seed=seed)
    n, m = int(lost.sum()), int(won.sum())
    check = next(c for c in judged(lost[0].tolist(), won[0].tolist(), Groups(), 0.05).checks if c.name == "drop")
    assert (check.bound, check.p) == (drop_bound(n, m, 246), mcnemar(n, m))
    assert (check.low, check.high) == paired_bootstrap(n, m, 246)
    assert (check.value, check.effective, check.passed) == ((n - m) / 246, None, drop_bound(n, m, 246) < 0.05)


def test_a_bounded_share_counts_near_copies_as_one_item_that_is_right_where_all_are() -> None:
    """299 items without a failure make 99 % sure, and 290 questions do not."""
    exact, near = [True] * 299, {f"i{n}": "i0" for n in range(1, 10)}
    records = GateRecords(reports={SUITE: report("v2", exact)}, groups={SUITE: Groups(near=near)})
    result = gates.judge(rid("v2"), None, GateConfig(suite=SUITE, min_exact=0.99, bound=True), records)
    check = result.checks[0]
    assert (check.passed, check.too_small, check.n, check.effective) == (False, True, 299, 290)
    assert "299 items, of which 290 count (near copies are one) bound a share" in check.note


def test_a_slice_that_is_all_near_copies_of_one_question_cannot_fail_and_is_undecided() -> None:
    """Twenty items, all of them lost, were seen to be lost: they are one question."""
    near = {f"i{n}": "i0" for n in range(1, 20)}
    slices = {f"i{n}": "thai" if n < 20 else "german" for n in range(120)}
    groups = Groups(near=near, slices=slices)
    records = GateRecords(
        reports={SUITE: report("v2", [n >= 20 for n in range(120)])},
        live={SUITE: report("v1", [True] * 120)},
        groups={SUITE: groups},
    )
    config = GateConfig(suite=SUITE, max_drop=0.1, min_slice=10)
    check = next(c for c in gates.judge(rid("v2"), rid("v1"), config, records).checks if c.name == "slices")
    assert (check.passed, check.too_small, check.needed, check.p) == (False, True, 10, 1.0)
    assert "thai, 20 lost and 0 won of 20, of which 1 count (near copies are one)" in check.note
    assert "too small: thai 1" in check.note
    with pytest.raises(Refused) as refused:
        gates.require_big_enough(config, {SUITE: 120}, {SUITE: groups})
    assert refused.value.context == {"suite": SUITE, "items": 1, "needed": 10}
