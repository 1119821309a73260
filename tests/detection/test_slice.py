"""A slice of the tables in docs/detection.md, measured again; and that the arrays follow the rule."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.detection import __main__ as run
from tests.detection.delays import RATES, TRAFFIC, WARM_S, Traffic, delays, percentile, slow_delay
from tests.detection.false_flags import KINDS, LIMIT, most_evidence, part

from loradeck.rules.quality.detection import Detector

KEPT = json.loads((Path(__file__).parents[2] / "docs" / "detection.json").read_text())


@pytest.mark.parametrize("seed", range(5))
def test_the_arrays_give_the_evidence_that_the_rule_gives_after_every_unit(seed: int) -> None:
    rng, detector, found = np.random.default_rng(seed), Detector(LIMIT, restarting=True), -math.inf
    before, bad = rng.geometric(0.06, (1, 60)) - 1, rng.random((1, 60)) < 0.8
    look = 0
    for good, is_bad in zip(before[0], bad[0], strict=True):
        for unit in (*[0] * int(good), int(is_bad)):
            look += 1
            detector.add(look, 1, unit)
            found = max(found, detector.evidence(look))
    assert most_evidence(before, bad)[0] == pytest.approx(found)
    assert found > 1


def test_a_look_after_every_unit_sees_no_less_than_one_each_second() -> None:
    rng, seconds, units = np.random.default_rng(7), Detector(LIMIT, restarting=True), Detector(LIMIT, restarting=True)
    by_second = by_unit = -math.inf
    for second in range(120):
        drawn = rng.random(20) < 0.05
        seconds.add(second, len(drawn), int(drawn.sum()))
        by_second = max(by_second, seconds.evidence(second))
        for at, is_bad in enumerate(drawn):
            units.add(20 * second + at, 1, int(is_bad))
            by_unit = max(by_unit, units.evidence(20 * second + at))
    assert by_unit >= by_second > 1


@pytest.mark.parametrize("row", [row for row in KEPT["delays"] if row["budget"]], ids=lambda row: row["traffic"])
def test_bad_releases_are_detected_within_the_budget_as_the_table_says(row: dict[str, list[int]]) -> None:
    traffic = next(t for t in TRAFFIC if str(t) == row["traffic"])
    flags, rollbacks = zip(*(delays(traffic, seed) for seed in range(20)), strict=True)
    assert percentile(flags, 0.8) <= row["flag"][1] <= row["budget"][0]
    assert percentile(rollbacks, 0.8) <= row["rollback"][1] <= row["budget"][1]


def test_an_hour_of_good_tenants_shows_no_flag() -> None:
    flagged, most = part("at the limit", 0, tenants=300, seconds=3600)
    assert not flagged
    assert most > 0


def test_the_long_run_goes_on_where_it_stopped_and_counts_no_part_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(run, "part", lambda kind, number: made.append((kind, number)) or (number, float(number)))
    done: dict[str, dict[str, object]] = {}
    saved = []
    for rest in (iter([True] * 4), iter([True] * 99)):
        run.go_on(done, 3, lambda rest=rest: next(rest, False), lambda: saved.append(1))
    assert made == [(kind, number) for number in range(3) for kind in KINDS]
    assert len(saved) == len(made)
    assert {(of["parts"], of["flagged"], of["most"]) for of in done.values()} == {(3, 0 + 1 + 2, 2.0)}


@pytest.mark.parametrize("row", KEPT["slow"], ids=lambda row: row["traffic"])
def test_late_first_tokens_are_detected_as_the_table_says(row: dict[str, list[int]]) -> None:
    rate = next(rate for rate in RATES if str(row["traffic"]).startswith(f"{rate}/s"))
    assert percentile([slow_delay(rate, seed) for seed in range(20)], 0.8) <= row["flag"][1]


@pytest.mark.parametrize(("rate", "short"), [(40, False), (40, True), (1, False), (1, True)])
def test_a_promote_is_not_rolled_back_where_the_release_beneath_is_as_bad(rate: int, short: bool) -> None:
    traffic = Traffic(rate, 1.0, 0.3, short, beneath=0.3)
    for seed in range(2):
        _, rollback = delays(traffic, seed, longest_s=1200)
        assert rollback >= 1200 - WARM_S - 60, (traffic, seed)
