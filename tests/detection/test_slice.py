"""A slice of the tables in docs/detection.md, measured again; and that the arrays follow the rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.detection.delays import TRAFFIC, WARM_S, Traffic, delays, percentile
from tests.detection.false_flags import LIMIT, after, block

from loradeck.rules.quality.detection import ODDS, Detector

KEPT = json.loads((Path(__file__).parents[2] / "docs" / "detection.json").read_text())


def test_the_arrays_give_the_evidence_that_the_rule_gives() -> None:
    rng, detector = np.random.default_rng(3), Detector(LIMIT, restarting=True)
    wealth, most, found = np.zeros((len(ODDS), 1)), 0.0, 0.0
    for second in range(300):
        units = rng.poisson(20, 1)
        bad = rng.binomial(units, 0.06)
        wealth = after(wealth, units, bad)
        detector.add(second, int(units[0]), int(bad[0]))
        most = max(most, float(wealth.max()))
        found = max(found, detector.evidence(second))
    assert found == pytest.approx(most - np.log(len(ODDS)))
    assert found > 3


@pytest.mark.parametrize("row", [row for row in KEPT["delays"] if row["budget"]], ids=lambda row: row["traffic"])
def test_bad_releases_are_detected_within_the_budget_as_the_table_says(row: dict[str, list[int]]) -> None:
    traffic = next(t for t in TRAFFIC if str(t) == row["traffic"])
    flags, rollbacks = zip(*(delays(traffic, seed) for seed in range(20)), strict=True)
    assert percentile(flags, 0.8) <= row["flag"][1] <= row["budget"][0]
    assert percentile(rollbacks, 0.8) <= row["rollback"][1] <= row["budget"][1]


def test_an_hour_of_good_tenants_shows_no_flag() -> None:
    flagged, most = block("at the limit", 0, tenants=300, seconds=3600)
    assert not flagged
    assert most > 0


@pytest.mark.parametrize(("rate", "short"), [(40, False), (40, True), (1, False), (1, True)])
def test_a_promote_is_not_rolled_back_where_the_release_beneath_is_as_bad(rate: int, short: bool) -> None:
    traffic = Traffic(rate, 1.0, 0.3, short, beneath=0.3)
    for seed in range(2):
        _, rollback = delays(traffic, seed, longest_s=1200)
        assert rollback >= 1200 - WARM_S - 60, (traffic, seed)
