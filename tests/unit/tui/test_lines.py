"""What is written of a line that changed: nothing to the right of its last change, and all of the preview once."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.console_stage import stage
from textual.app import App, ComposeResult

from loradeck.tui.key_checks.seen_frames import Shown
from loradeck.tui.text.spans import Line, Span, line
from loradeck.tui.widgets.lines import changed_to, strip_of
from loradeck.tui.widgets.pane import Pane


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [
        (line("abc"), line("abc"), 0),
        (line("abc"), line("a", "bc"), 0),
        (line("abc"), line("abd"), 3),
        (line("abc   "), line("abc"), 0),
        (line("abcdef"), line("abc"), 6),
        ((), line("abc"), 3),
        (line("x", Span("abc", "bad")), line("x", Span("abc", "warn")), 4),
        (line("12", Span("  ok", "good")), line("13", Span("  ok", "good")), 2),
        (line("日本"), line("日本語"), 20),
        (line("日本"), line("日本"), 0),
        (line("a" * 30), line("b" + "a" * 29), 20),
    ],
)
def test_a_line_is_written_up_to_its_last_change(before: Line, after: Line, end: int) -> None:
    assert changed_to(before, after, 20) == end


def test_pieces_that_look_alike_are_one() -> None:
    strip = strip_of(line("a", Span("b", "bad"), Span("c", "bad"), "d", " ", "e"), 10)
    assert [segment.text for segment in strip] == ["a", "bc", "d e    "]


ONE, TWO = (Shown("t", "r", generation, "rollback") for generation in (1, 2))


class OnePane(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.pane = Pane()

    def compose(self) -> ComposeResult:
        yield self.pane


async def test_lines_that_stand_there_already_count_for_the_next_preview_and_others_only_once_painted() -> None:
    app = OnePane()
    async with app.run_test(size=(40, 12)) as pilot:
        pane = app.pane
        pane.show_as([line("same"), line("first")], ONE, None)
        await pilot.pause()
        assert pane.painted == (ONE, None)
        drawn: list[int] = []
        render = pane.render_line
        pane.render_line = lambda y: (drawn.append(y), render(y))[1]  # type: ignore[method-assign]
        pane.show_as([line("same"), line("second")], TWO, None)
        assert pane.painted == (None, None)
        await pilot.pause()
        assert drawn == [1]
        assert pane.painted == (TWO, None)


async def test_a_line_that_is_not_painted_yet_does_not_count_for_the_preview_after_it() -> None:
    app = OnePane()
    async with app.run_test(size=(40, 12)) as pilot:
        pane = app.pane
        pane.show_as([line("same"), line("first")], ONE, None)
        await pilot.pause()
        pane.show_as([line("same"), line("second")], TWO, None)
        pane.show_as([line("other"), line("second")], ONE, None)
        assert pane.painted == (None, None)
        await pilot.pause()
        assert pane.painted == (ONE, None)


async def test_footer_growth_a_thousand_redraws_make_no_widget_and_no_timer() -> None:
    async with stage() as on:
        await on.press("j")
        widgets, tasks = len(list(on.deck.screen.walk_children())), len(asyncio.all_tasks())
        for _ in range(500):
            on.deck.state.listing.step(1)
            on.deck.draw_front()
            on.deck.state.listing.step(-1)
            on.deck.draw_front()
        await on.pause()
        assert len(list(on.deck.screen.walk_children())) == widgets
        assert len(asyncio.all_tasks()) <= tasks + 2
