"""A job's page: plots without invented points, and a log that does not fight its reader."""

from __future__ import annotations

import sys

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Stage, stage

from loradeck.client.feed import FeedLink, LinkChange
from loradeck.client.job_words import gap_notes
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.jobs import JobLogLine, JobState
from loradeck.tui.keys.action import Action
from loradeck.tui.model.followed_job import KEPT, STEPS, FollowedJob, LogView
from loradeck.tui.screens.pages import JobScreen
from loradeck.tui.text.plots import GUTTER, plot

TRAIN = "job-7be10c44"


def line(number: int, text: str = "", attempt: int = 1) -> JobLogLine:
    return JobLogLine(attempt=attempt, number=number, text=text or f"line {number}")


def event(seq: int, step: int, *, attempt: int = 1, ts: float = 0.0, **metrics: float) -> ExecutorEvent:
    kind = ExecutorEventType.PROGRESS
    return ExecutorEvent(run="j", attempt=attempt, seq=seq, ts=ts, type=kind, step=step, of=40, metrics=metrics)


def dots(lines: list[str]) -> int:
    return sum(bin(ord(char) - 0x2800).count("1") for text in lines for char in text if 0x2800 <= ord(char) < 0x2900)


async def look(on: Stage, job: str = TRAIN) -> JobScreen:
    await on.press("3", "g", *"j" * on.deck.state.job_list.order.index(job), "enter")
    await on.pause()
    await on.pause()
    page = on.deck.screen
    assert isinstance(page, JobScreen)
    return page


# ---- plots -----------------------------------------------------------------------------------------------------


def test_steps_that_were_missed_are_not_bridged() -> None:
    whole = {step: float(40 - step) for step in range(1, 41)}
    holed = {step: value for step, value in whole.items() if not 15 <= step <= 25}
    drawn = plot(holed, 1, 40, GUTTER + 40, 6)
    columns = [i for i in range(GUTTER, GUTTER + 40) if any(row[i] != " " for row in drawn)]
    assert [i - GUTTER for i in columns] == [*range(14), *range(25, 40)]
    assert dots(plot(whole, 1, 40, GUTTER + 40, 6)) > dots(drawn)


def test_the_highest_is_on_top_and_the_lowest_below_with_their_values() -> None:
    drawn = plot({1: 2.5, 2: 0.25}, 1, 2, GUTTER + 10, 4)
    assert drawn[0].startswith("     2.5 ")
    assert drawn[3].startswith("    0.25 ")
    assert drawn[0][GUTTER] != " "
    assert drawn[3][-1] != " "


@pytest.mark.parametrize("points", [{}, {3: float("nan")}, {3: float("inf")}])
def test_nothing_finite_is_an_empty_plot(points: dict[int, float]) -> None:
    assert plot(points, 1, 40, 40, 5) == [""] * 5


def test_a_constant_figure_is_a_line_and_a_single_one_a_dot() -> None:
    assert dots(plot({5: 1.0}, 1, 40, 60, 5)) == 1
    assert dots(plot(dict.fromkeys(range(1, 41), 1.0), 1, 40, 60, 5)) == 2 * (60 - GUTTER)


# ---- following -------------------------------------------------------------------------------------------------


def test_a_step_that_was_done_again_shows_the_later_figure_and_speed_is_that_of_the_attempt() -> None:
    job = FollowedJob("j")
    job.add([event(1, 1, ts=0, loss=3.0), event(2, 2, ts=1, loss=2.0), event(3, 30, ts=29, loss=0.5)], [])
    job.add([event(0, 20, attempt=2, ts=1000, loss=0.9), event(1, 22, attempt=2, ts=1020, loss=0.7)], [])
    assert job.figures["loss"] == {1: 3.0, 2: 2.0, 20: 0.9, 22: 0.7, 30: 0.5}
    assert job.left_s(40) == pytest.approx(180)
    assert job.left_s(None) is None


def test_what_comes_twice_counts_once() -> None:
    job = FollowedJob("j")
    for _ in range(2):
        job.add([event(1, 1, loss=3.0)], [line(1), line(2)])
    assert job.log.window(9) == ["line 1", "line 2"]


def test_figures_held_do_not_grow() -> None:
    job = FollowedJob("j")
    job.add([event(step, step, loss=1.0) for step in range(1, STEPS + 500)], [])
    assert len(job.figures["loss"]) == STEPS
    assert min(job.figures["loss"]) == 500


def test_lines_that_were_not_sent_are_reported() -> None:
    job = FollowedJob("j")
    job.add([], [line(3), line(4), line(9), line(1, attempt=2)])
    assert job.log.window(9) == [
        "-- 2 lines are not here --", "line 3", "line 4", "-- 4 lines are not here --", "line 9", "-- attempt 2 --",
        "line 1",
    ]  # fmt: skip
    assert gap_notes(line(1), line(3)) == ["-- 1 line is not here --"]


# ---- the log ---------------------------------------------------------------------------------------------------


def test_the_end_is_followed_until_one_moves_up_and_then_nothing_moves() -> None:
    log = LogView()
    log.add(f"line {i}" for i in range(100))
    assert log.window(3) == ["line 97", "line 98", "line 99"]
    log.move(-1, 3)
    assert not log.following
    log.add(["line 100", "line 101"])
    assert log.window(3) == ["line 96", "line 97", "line 98"]
    assert log.new == 2
    log.move(50, 3)
    assert log.window(3)[-1] == "line 101"
    log.add(["line 102"])
    assert log.window(3)[-1] == "line 101", "who reads the end is not carried on"
    log.follow()
    assert log.window(3)[-1] == "line 102"
    assert log.new == 0


def test_log_flood_memory_is_flat_and_the_reader_keeps_his_place_as_long_as_it_is_held() -> None:
    log = LogView()
    log.add(f"line {i}" for i in range(KEPT))
    log.move(-10, 20)
    place = log.window(20)
    log.add(f"line {i}" for i in range(KEPT, 2 * KEPT - 100))
    assert log.window(20) == place
    log.add(f"line {i}" for i in range(2 * KEPT - 100, 100_000))
    assert len(log) == KEPT
    assert sys.getsizeof(log._lines) < 100 * KEPT
    assert log.window(1) == [f"line {100_000 - KEPT}"], "his lines have left: the oldest that are held"
    assert log.new == 100_000 - KEPT
    log.follow()
    assert log.window(2) == ["line 99998", "line 99999"]


# ---- the page --------------------------------------------------------------------------------------------------


async def test_moving_up_stops_following_and_says_how_many_lines_are_new_and_G_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stage(size=(100, 30)) as on:
        page = await look(on)
        await on.press("k")
        before = page.body.text
        more = [*seed.job_log(TRAIN), line(29, "[red]late[/]"), line(30, "last")]
        monkeypatch.setattr(seed, "job_log", lambda job: more)
        await page._poll()
        assert page.body.text == before
        assert "NOT following: 2 new; G follows" in page.blocks[0].text
        await on.press("G")
        assert page.body.text.splitlines()[-2:] == [" [red]late[/]", " last"]
        assert "following the end" in page.blocks[0].text
        await on.press("escape")
        await on.pause()
        assert on.deck.front is not None


async def test_loading_shown_as_empty_a_page_without_an_answer_says_loading_and_what_stands_in_the_way() -> None:
    async with stage() as on:
        on.hub.away = True
        page = await look(on)
        assert "loading ..." in page.blocks[0].text
        assert "loading ..." in page.body.text
        assert "no answer: the hub cannot be reached" in page.blocks[0].text
        on.hub.away = False
        await page._poll()
        assert "no answer" not in page.blocks[0].text
        assert "loss by step" in page.blocks[0].text


async def test_stale_shown_as_live_a_page_without_a_link_says_when_it_is_from() -> None:
    async with stage(size=(140, 30)) as on:
        page = await look(on)
        on.hub.away = True
        on.hub.says.put_nowait(LinkChange(state=FeedLink.LOST, at=0.0, why="the link broke"))
        await on.pause()
        on.clock.now += 14
        await page._poll()
        assert "AGO: lost" in page.blocks[0].text
        assert "no answer, as of 14s ago" in page.blocks[0].text


async def test_a_job_that_printed_nothing_is_told_from_one_that_is_loading() -> None:
    async with stage() as on:
        page = await look(on, "job-0c77e1b9")
        assert "it printed nothing since the hub started" in page.body.text
        assert "no figure by step since the hub started" in page.blocks[0].text


async def test_markup_in_names_control_characters_and_wide_text_in_a_log_stay_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = "[bold]節点\u202e\x1b[31m end"
    monkeypatch.setattr(seed, "job_log", lambda job: [line(1, odd)])
    async with stage() as on:
        page = await look(on)
        assert page.body.text.splitlines()[-1] == " [bold]節点\N{REPLACEMENT CHARACTER}\u241b[31m end"


@pytest.mark.parametrize("size", [(80, 24), (60, 16), (200, 60)])
async def test_the_page_fits_every_size(size: tuple[int, int]) -> None:
    async with stage(size=size) as on:
        page = await look(on)
        assert page.blocks[0].size.height + page.body.size.height + 1 == size[1]
        assert len(page.blocks[0].text.splitlines()) <= 12


# ---- resume ----------------------------------------------------------------------------------------------------


async def test_resume_says_which_attempt_it_becomes_and_waits_for_y() -> None:
    async with stage() as on:
        on.hub.obeys = lambda order: on.deck.state.jobs[order.subject].model_copy(update={"state": JobState.QUEUED})
        await on.press("3", "g", *"j" * on.deck.state.job_list.order.index("job-11aa03de"), "S")
        await on.half_second()
        assert on.deck.front is not None
        assert (
            "S resume train job-11aa03de of fjord (failed: diverged): it is queued again as" in on.deck.front.pane.text
        )
        assert on.hub.ordered == []
        await on.press("y")
        assert [order.action for order in on.hub.ordered] == [Action.RESUME]
        assert on.deck.state.jobs["job-11aa03de"].state is JobState.QUEUED


@pytest.mark.parametrize("job", ["job-7be10c44", "job-0c77e1b9", "job-c31f0b72"])
async def test_only_a_failed_or_cancelled_job_is_resumed(job: str) -> None:
    async with stage() as on:
        await on.press("3", "g", *"j" * on.deck.state.job_list.order.index(job), "S")
        assert on.deck.front is not None
        assert "only a failed or cancelled job is resumed" in on.deck.front.prompt.notice
        assert on.deck.moves.question is None
