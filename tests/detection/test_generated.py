"""A slice of the tables on traffic of published shapes, and that what makes them is the product's rule."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.detection import __main__ as run
from tests.detection import candidates, fleet, generated
from tests.detection.fleet import Day, upper_bound
from tests.detection.traffic.bodies import bodies
from tests.detection.traffic.generator import requests
from tests.detection.traffic.route import DAY, Route

from loradeck.rules.quality.detection import flag_level

KEPT = json.loads((Path(__file__).parents[2] / "docs" / "detection.json").read_text())
ROWS = {row["traffic"]: row for row in KEPT["generated"]}
BUSY = [case for case in generated.CASES if case.rate == 40 and str(case) in ROWS]


@pytest.mark.parametrize("case", [BUSY[0], BUSY[4], BUSY[6]], ids=str)
def test_a_run_of_the_table_is_flagged_as_the_table_says(case: generated.Case) -> None:
    row = ROWS[str(case)]
    outcome = generated.run(case, 0)
    assert outcome.flag is not None
    assert 0 < outcome.flag <= row["flag"][1]
    assert outcome.cause in row["causes"]
    assert sum(row["causes"].values()) == row["runs"]


def test_bodies_with_tools_are_told_apart_by_their_numbers_as_by_their_bytes() -> None:
    route = generated.CASES[0].route(0)
    asked = generated.with_tools(requests(route, 0, 12))
    numbers, callers = asked.body.tolist(), asked.caller.tolist()
    sent = bodies(route, numbers, callers)
    assert all(b'"tools"' in body for body in sent)
    assert len(set(zip(callers, numbers, strict=True))) == len(set(zip(callers, sent, strict=True))) > 100


def test_callers_who_are_alike_in_themselves_count_for_less() -> None:
    cluster = np.repeat(np.arange(20), 50)
    assert generated.design_effect(cluster < 4, cluster) == pytest.approx(50 * 20 / 19)
    alternating = np.arange(1000) % 5 == 0
    assert generated.design_effect(alternating, cluster) == 1


def flags_from_midnight(day: Day, until: float) -> list[tuple[str, int]]:
    """The flags of the product from a day's beginning until a second, by figure and second."""
    return [(flag.raised.figure, flag.at) for flag in day.replayed(0, until)]


def a_day(**changed: float) -> Day:
    return Day.of(replace(Route(rate=0.05, tenant=3, nodes=fleet.NODES), **changed), 1)


@pytest.mark.drawn(seconds=20, group="screen")
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_the_product_raises_no_flag_where_the_screen_says_that_none_is_near(share: float) -> None:
    day = a_day(share=share)
    screened = day.screened()
    assert screened.near == ()
    assert screened.most > 0
    assert flags_from_midnight(day, math.inf) == []


@pytest.mark.drawn(seconds=10, group="replay")
def test_what_the_product_flags_from_midnight_on_it_flags_where_the_screen_says_so() -> None:
    quiet = a_day(share=0.01)
    bad = quiet.asked.bad | ((quiet.asked.time >= 1.2 * DAY) & (quiet.asked.time < 1.22 * DAY) & ~quiet.asked.failed)
    day = replace(quiet, asked=replace(quiet.asked, bad=bad))
    screened = day.screened()
    (span,) = screened.near
    assert screened.most >= flag_level(10_000)
    until = span.last + fleet.AFTER_S
    flags = flags_from_midnight(day, until)
    assert [figure for figure, _ in flags] == ["bad"]
    assert span.begin <= flags[0][1] <= span.last
    near = day.replayed(span.begin - fleet.BEFORE_S, until)
    assert [(flag.raised.figure, flag.at) for flag in near] == flags


def test_a_slice_of_the_fleet_has_no_flag_about_the_release() -> None:
    found = fleet.part(0, tenants=range(10), days=2)
    assert found.get("release", 0) == 0


@pytest.mark.drawn(seconds=10, group="good candidates")
@pytest.mark.parametrize("kind", candidates.GOOD, ids=lambda kind: kind.name)
def test_guard_takes_out_no_good_candidate_of_a_slice_and_those_of_the_table_as_it_says(kind: candidates.Kind) -> None:
    row = next(row for row in KEPT["candidates"] if row["candidate"] == kind.name)
    assert (row["runs"], row["by_callers"] <= 1) == (candidates.RUNS, True)
    assert candidates.measured(kind, 30)["by_callers"] <= row["by_callers"]


def test_guard_takes_out_a_bad_candidate_when_the_table_says_so() -> None:
    kind = candidates.BAD[1]
    row = next(row for row in KEPT["candidates"] if row["candidate"] == kind.name)
    outcome = candidates.run(kind, 0)
    assert outcome.by_callers is not None
    assert outcome.by_callers <= row["by_callers_s"][1]


@pytest.mark.parametrize(("count", "bound"), [(0, 2.996), (1, 4.744), (10, 16.962)])
def test_the_bound_of_a_rate_is_that_of_the_tables(count: int, bound: float) -> None:
    assert upper_bound(count, 1) == pytest.approx(bound, abs=0.001)
    assert upper_bound(count, 2) == pytest.approx(bound / 2, abs=0.001)


def test_the_fleet_goes_on_where_it_stopped_and_counts_no_part_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(fleet, "part", lambda number: made.append(number) or {"flags": number, "bad": number})
    done: dict[str, int] = {"parts": 0}
    for rest in (iter([True] * 2), iter([True] * 99)):
        run.fleet_goes_on(done, 4, lambda rest=rest: next(rest, False), lambda: None)
    assert made == [0, 1, 2, 3]
    assert (done["parts"], done["flags"], done["bad"], done["release"]) == (4, 6, 6, 0)
