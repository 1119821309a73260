"""The TREND line: the last hours of a row, whenever the console was opened."""

from __future__ import annotations

import re

import pytest
from tests.fakes.console_stage import pane, stage

from loradeck.client.history import in_steps
from loradeck.schemas.counts import Counts, RouteHistory
from loradeck.tui.lines.trend import trend_line

BEGUN = 29_000_000  # minutes since 1970


def history(minutes: int = 180, bad_from: int | None = None) -> RouteHistory:
    """Sixty requests a minute; from a minute on half of them are bad."""
    rows = {
        BEGUN + n: Counts.over(finished=60, checked=60, bad=30 if bad_from is not None and n >= bad_from else 0)
        for n in range(minutes)
    }
    at_ms = 60_000 * (BEGUN + minutes)
    return RouteHistory(tenant="acme", route="production", at_ms=at_ms, since=BEGUN, minutes=rows)


def test_a_history_is_cut_into_equal_steps_up_to_the_last_minute_that_is_over() -> None:
    whole = history(100)
    running = whole.model_copy(update={"minutes": whole.minutes | {BEGUN + 100: Counts.over(finished=1)}})
    steps = in_steps(running, 18)
    assert {step.minutes for step in steps} == {6}
    assert steps[-1].since + 6 == BEGUN + 100
    assert all(step.counts.finished == 360 and step.requests_per_s == 1.0 for step in steps)
    assert in_steps(history(1), 18)[0].counts.finished == 60


def test_minutes_without_requests_are_steps_with_none() -> None:
    empty = history().model_copy(update={"minutes": {}})
    assert [step.counts for step in in_steps(empty, 3)] == [Counts()] * 3


@pytest.mark.parametrize("size", [(100, 24), (80, 24), (100, 50)])
async def test_a_console_that_has_just_been_opened_draws_what_came_before(size: tuple[int, int]) -> None:
    async with stage(size=size) as on:
        on.hub.minutes = lambda tenant, route: history(bad_from=150)
        await on.press("j")
        await on.half_second()
        shown = next(line for line in pane(on).splitlines() if line.lstrip().startswith("TREND"))
        assert "▁▁▁" in shown
        assert "██" in shown
        assert "50" in shown
        assert "1.0/s   3 h" in shown


async def test_where_the_pane_has_room_the_last_two_weeks_stand_below_by_the_hour() -> None:
    hours = {BEGUN - 60 * n: Counts.over(finished=3600, checked=3600, bad=36) for n in range(1, 337)}
    past = history().model_copy(
        update={"since": BEGUN - 60 * 336, "at_ms": 60_000 * BEGUN, "minutes": hours, "each": 60}
    )
    async with stage(size=(100, 50)) as on:
        on.hub.minutes = lambda tenant, route: past
        await on.press("j")
        await on.half_second()
        lines = pane(on).splitlines()
        at = next(number for number, line in enumerate(lines) if line.lstrip().startswith("TREND"))
        assert "3 h" in lines[at]
        assert "bad ▂" in lines[at + 1]
        assert "1.0/s   14 d" in lines[at + 1]


async def test_a_hub_that_keeps_no_minutes_leaves_the_pane_as_it_was() -> None:
    async with stage() as on:
        await on.half_second()
        assert "TREND" not in pane(on)
        assert "TELL" in pane(on)


async def test_the_mark_stands_where_the_live_release_went_live() -> None:
    async with stage() as on:
        row = on.deck.state.row
        assert row is not None
        moved = row.model_copy(
            update={"pointer": row.pointer.model_copy(update={"moved_ms": 60_000 * (BEGUN + 150), "generation": 41})}
        )
        text = "".join(span.text for span in trend_line(moved, history(bad_from=150), 100))
        assert re.search("▁[|][▂-█]+ 50", text)
        assert "| gen 41" in text
