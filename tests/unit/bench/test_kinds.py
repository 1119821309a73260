"""Which figures of the benchmark may have a budget: ratios, counts and sizes, and no time or rate."""

from __future__ import annotations

import pytest
from tests.bench.kinds import Kind, Reference, kind_of, may_have_budget
from tests.bench.rows import Row


@pytest.mark.parametrize(
    ("unit", "reference", "kind"),
    [
        ("x", "floor", Kind.FLOOR),
        ("x", "peer", Kind.PEER),
        ("x", "setting", Kind.SETTING),
        ("% off", "peer", Kind.PEER),
        ("requests", None, Kind.COUNT),
        ("MB", None, Kind.SIZE),
        ("ms", None, Kind.NOTE),
        ("requests/s", None, Kind.NOTE),
        ("%", None, Kind.NOTE),
    ],
)
def test_the_kind_of_a_figure_follows_from_its_unit_and_what_it_is_a_ratio_to(
    unit: str, reference: Reference | None, kind: Kind
) -> None:
    assert kind_of(unit, reference) is kind


@pytest.mark.parametrize("unit", ["us", "ms", "s", "s of CPU", "1/s", "requests/s", "moves/s", "tokens/s", "%"])
def test_a_time_a_rate_or_a_share_of_a_core_has_no_budget(unit: str) -> None:
    assert Row("it", 1.0, unit, 1).kind is Kind.NOTE
    with pytest.raises(ValueError, match="means something else on each machine"):
        Row("it", 1.0, unit, 1, 2.0)


@pytest.mark.parametrize("unit", ["ms", "requests/s", "%"])
def test_a_time_cannot_call_itself_a_ratio(unit: str) -> None:
    with pytest.raises(ValueError, match="cannot be a ratio to a floor"):
        Row("it", 1.0, unit, 1, 2.0, reference="floor")


def test_a_ratio_says_what_it_is_to() -> None:
    with pytest.raises(ValueError, match="names nothing it is to"):
        kind_of("x")


def test_a_unit_that_nobody_has_sorted_is_refused() -> None:
    with pytest.raises(ValueError, match="'fortnights'"):
        kind_of("fortnights")


def test_all_kinds_but_notes_may_have_a_budget() -> None:
    assert {kind for kind in Kind if not may_have_budget(kind)} == {Kind.NOTE}
