"""What a narrow or low terminal shows: what matters most is never what is cut."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Stage, notice, pane, stage
from textual.events import Resize
from textual.geometry import Size

from loradeck.schemas.feed import FeedStatus
from loradeck.tui.keys.action import Screen
from loradeck.tui.keys.personal_keys import DEFAULT
from loradeck.tui.lines.header_footer import footer_line
from loradeck.tui.text.spans import Span, wrapped
from loradeck.tui.widgets.page import Page


def said(spans: tuple[Span, ...]) -> str:
    return "".join(span.text for span in spans)


def front(on: Stage, part: str) -> str:
    assert on.deck.front is not None
    text: str = getattr(on.deck.front, part).text
    return text


@pytest.mark.parametrize("screen", list(Screen))
@pytest.mark.parametrize("width", [80, 100, 160, 200])
def test_the_footer_always_names_help_the_screens_and_what_matters_most_here(screen: Screen, width: int) -> None:
    footer = said(footer_line(DEFAULT, screen, width, in_view=(12_345, 12_354), total=12_400))
    assert len(footer) == width
    assert "? help" in footer
    assert "1-9 screens" in footer or "2 nodes" in footer or "1 tenants" in footer
    for binding in DEFAULT.hints(screen):
        if binding.hint <= 2:
            assert f"{binding.shown} {binding.label}" in footer
    assert footer.rstrip().endswith("12345-12354/12,400")


def test_a_wide_footer_names_every_key_that_has_a_hint() -> None:
    footer = said(footer_line(DEFAULT, Screen.NODES, 200, in_view=(1, 2), total=2))
    assert all(f"{binding.shown} {binding.label}" in footer for binding in DEFAULT.hints(Screen.NODES))
    assert "1 tenants" in footer
    assert "q back" in footer


async def test_the_header_drops_who_one_is_before_what_is_refused() -> None:
    state = seed.hub_state()
    async with stage(state, size=(80, 24), read_only="--read-only") as on:
        status = state.status.model_copy(update={"hub": "a-hub-with-a-very-long-name-indeed", "refusing": "log_behind"})
        await on.says(FeedStatus(status=status))
        await on.half_second()
        header = front(on, "header")
        for part in ("PROD a-hub-with-a-very", "hub ok", "READ-ONLY", "REFUSING MOVES"):
            assert part in header
        assert "op1" not in header


async def test_a_long_notice_is_broken_into_lines_and_gives_them_back() -> None:
    async with stage(size=(80, 24)) as on:
        on.deck.notice("not saved: /a/path/" + "x" * 70 + ".txt: No such file or directory")
        await on.pause()
        assert front(on, "prompt").replace("\n", "").replace(" ", "").endswith("Nosuchfileordirectory")
        assert len(front(on, "prompt").splitlines()) == 3
        assert on.deck.front is not None
        assert on.deck.front.prompt.size.height == 3
        assert on.deck.front.footer.region.bottom == 24
        await on.press("j")
        await on.pause()
        assert on.deck.front.prompt.size.height == 1


def test_words_are_broken_only_where_they_are_longer_than_a_line() -> None:
    assert wrapped("one two three", 7) == ["one two", "three"]
    assert wrapped("x" * 9 + " y", 4) == ["xxxx", "xxxx", "x y"]
    assert wrapped("", 4) == []


async def test_a_notice_that_R_is_not_armed_goes_once_it_is() -> None:
    async with stage() as on:
        await on.press("j", "j", "R")
        assert notice(on).startswith("R not armed")
        await on.half_second()
        await on.half_second()
        assert "R not armed" not in pane(on)
        assert notice(on) == ""


async def resized(on: Stage, width: int, height: int) -> None:
    size = Size(width, height)
    on.deck.post_message(Resize(size, size))
    async with asyncio.timeout(60):
        while on.deck.screen.size != size:  # noqa: ASYNC110 - Textual waits a while for the next size
            await asyncio.sleep(0.005)
    await on.half_second()


async def test_on_a_low_terminal_prompt_and_footer_stay_and_neither_R_nor_y_acts_on_what_is_cut() -> None:
    async with stage() as on:
        await resized(on, 40, 10)
        assert on.deck.front is not None
        assert on.deck.front.footer.region.bottom == 10
        async with asyncio.timeout(60):
            while on.deck.seen.look().shown is not None:  # what was seen is armed until the screen is drawn anew
                await on.half_second()
        await on.press("R")
        assert on.hub.sent == []
        assert notice(on).startswith("R not armed")
        await on.press("F")
        await on.half_second()
        await on.press("y")
        assert on.hub.sent == []
        assert "y not taken" in notice(on)
        await on.press("escape")
        on.deck.state.heard_at = on.clock.now  # however many half seconds went by
        await resized(on, 80, 24)
        await on.half_second()
        assert "R ARMED" in pane(on)


async def test_a_key_that_does_nothing_says_so_and_where_it_would() -> None:
    async with stage(size=(80, 24)) as on:
        await on.press("z")
        assert notice(on) == "z is no key here; ? shows which are"
        await on.press("D")
        assert notice(on) == "D (drain) is a key of the nodes screen; ? shows those of this one"
        await on.press("escape")
        assert notice(on) == "nothing is open here; q quits"
        await on.press("/", *"nosuchrow", "enter", "enter")
        assert notice(on) == "enter off: no row is selected"
        await on.press("space")
        assert notice(on) == "space off: no row is selected"
        await on.press("?")
        await on.pause()
        await on.press("R")
        await on.pause()
        page = on.deck.screen
        assert isinstance(page, Page)
        assert "R means nothing on this page" in page.bar.text


def test_a_key_without_a_character_is_named() -> None:
    assert DEFAULT.means_nothing("f5", Screen.TENANTS).startswith("f5 is no key here")


async def test_json_is_shown_whole(tmp_path: Path) -> None:
    async with stage(size=(60, 24)) as on:
        await on.press("6")
        await on.half_second()
        await on.press("J")
        await on.pause()
        page = on.deck.screen
        assert isinstance(page, Page)
        event = on.deck.state.events[on.deck.state.event_list.selected or 0]
        await on.press("G")
        await on.pause()
        assert "…" not in page.body.text
        assert event.hash in page.body.text.replace("\n", "")


async def test_a_drain_names_the_gpus_of_what_it_drains() -> None:
    async with stage(size=(80, 24)) as on:
        await on.press("2", "g", *"j" * on.deck.state.node_list.order.index("gpu-03"))
        await on.half_second()
        assert "gpu-03  up  B2 4ed2e5 on gpu1" in pane(on)
        await on.press("D")
        assert on.deck.moves.question is not None
        assert on.deck.moves.question.ask.line.endswith("by gpu-03 on gpu1")
