"""Each key of the binding table on each screen it is for, pressed in the app: what it does, or why not.

The cases are made of the table. A binding without an entry in EFFECTS fails by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.console_stage import Stage, notice, stage

from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.keys.default_bindings import BINDINGS, Binding
from loradeck.tui.model.lists import RowFilter, Sort
from loradeck.tui.screens.pages import JobScreen, ReviewScreen
from loradeck.tui.widgets.page import Page
from loradeck.tui.widgets.prompt import Asking

EXPORTED = "x: 1 of 4,310 request ids of v8 to loradeck-ids-acme-production-v8-"

AT_ONCE = {Action.ROLLBACK, Action.UNDO}
"""Keys that may act without y: R on an armed preview, u on a fresh move of one's own."""

PAIRS = [(screen, binding) for screen in Screen for binding in BINDINGS if screen in binding.where]
MOVING = [(screen, binding) for screen, binding in PAIRS if binding.moves]


def asks(what: Asking) -> Callable[[Stage], bool]:
    return lambda on: on.deck.front is not None and on.deck.front.prompt.asking is what


def at(line: int) -> Callable[[Stage], bool]:
    """The selection is on a line, counted as Python does; where there are fewer, on the last."""

    def check(on: Stage) -> bool:
        listing = on.deck.state.listing
        size = len(listing.order)
        return listing.index == (size + line if line < 0 else min(line, size - 1))

    return check


def paged(on: Stage) -> bool:
    assert on.deck.front is not None
    return at(on.deck.front.grid.page)(on)


def shows(which: Screen) -> Callable[[Stage], bool]:
    return lambda on: on.deck.state.screen is which and on.deck.front is on.deck.lists[which]


def entered(on: Stage) -> bool:
    return isinstance(on.deck.screen, Page | JobScreen | ReviewScreen) or on.deck.state.screen in (
        Screen.EVENTS,
        Screen.TENANTS,
    )


def is_json(on: Stage) -> bool:
    page = on.deck.screen
    return isinstance(page, Page) and page.body.text.startswith("{")


def is_help(on: Stage) -> bool:
    page = on.deck.screen
    return isinstance(page, Page) and page.body.text.startswith(" Keys on the ")


def is_diff(on: Stage) -> bool:
    page = on.deck.screen
    return isinstance(page, Page) and "v9 against v7" in page.body.text and "! recipe" in page.body.text


def is_trace(on: Stage) -> bool:
    page = on.deck.screen
    return isinstance(page, Page) and "not all: gpu-04: not linked" in page.body.text and "req-acme-3" in page.body.text


EFFECTS: dict[Action, Callable[[Stage], bool]] = {
    Action.ANNOTATE: asks(Asking.INCIDENT),
    Action.REWIND: lambda on: asks(Asking.MOMENT)(on) or "asking the hub" in notice(on) or on.hub.planned != [],
    Action.FILTER: asks(Asking.FILTER),
    Action.COMMAND: asks(Asking.COMMAND),
    Action.CONFIRM: lambda on: "nothing waits for y" in notice(on),
    Action.COPY: lambda on: notice(on).startswith("copied "),
    Action.MARK: lambda on: len(on.deck.state.marks) == 1,
    Action.MARK_ALL: lambda on: len(on.deck.state.marks) == len(on.deck.state.tenant_list.order) > 1,
    Action.SORT: lambda on: on.deck.state.sort is Sort.TENANT and "sorted by tenant" in notice(on),
    Action.JSON: is_json,
    Action.MARK_RELATED: lambda on: {key[0] for key in on.deck.state.marks} == {"aspen", "bolt", "elm"},
    Action.DIFF: is_diff,
    Action.MARK_VERSION: lambda on: " is marked; d on another one" in notice(on),
    Action.COMPARE: lambda on: notice(on).startswith("d off: "),
    Action.TRACES: is_trace,
    Action.EXPORT_IDS: lambda on: notice(on).startswith(
        "x: 1 of 4,310 request ids of v8 to loradeck-ids-acme-production-v8-"
    ),
    **{Action(which.value): shows(which) for which in Screen},
    Action.DOWN: at(1),
    Action.UP: at(0),
    Action.PAGE_DOWN: paged,
    Action.PAGE_UP: at(0),
    Action.FIRST: at(0),
    Action.LAST: at(-1),
    Action.OPEN: entered,
    Action.CLOSE: lambda on: on.deck.state.listing.filter.pattern is None,
    Action.HELP: is_help,
    Action.QUIT: lambda on: on.deck.state.screen is Screen.TENANTS,
}
"""What is so after a key that moves nothing, pressed on the first row of a filtered list."""


async def on_first_row(on: Stage, screen: Screen) -> None:
    """Whatever was before: a screen in front, its first row selected, nothing typed, nothing marked."""
    while isinstance(on.deck.screen, Page | JobScreen | ReviewScreen):
        on.deck.pop_screen()
    if on.deck.front is not None:
        on.deck.front.prompt.close()
    on.deck.moves.question = None
    on.deck.state.sort = Sort.ATTENTION
    on.deck.state.marks.clear()
    if on.deck.state.screen is not screen or on.deck.front is None:
        on.deck.show_list(screen)
        await on.half_second()
    for listing in (on.deck.state.listing, on.deck.state.event_list):
        listing.filter = RowFilter()
    on.deck.state.set_filter(RowFilter.parse("!nosuchrow"))
    on.deck.state.listing.jump(0)


def test_every_binding_has_its_effect_here() -> None:
    assert {binding.action for binding in BINDINGS if not binding.moves} <= set(EFFECTS)


@pytest.mark.parametrize("screen", list(Screen))
async def test_every_key_does_what_the_table_says(
    screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # x writes where the console was started
    async with stage(size=(100, 30)) as on:
        await on_first_row(on, screen)
        await on.half_second()
        assert on.deck.state.listing.order, "a screen without rows would show nothing"
        pairs = [pair for pair in PAIRS if pair[0] is screen and pair[1].action in EFFECTS]
        for _, binding in pairs:
            for key in binding.keys:
                if binding.action is Action.QUIT and screen is Screen.TENANTS:
                    continue  # ends it: in test_app
                await on_first_row(on, screen)
                await on.press(key)
                if isinstance(on.deck.screen, Page):
                    await on.pause()  # a page draws once it has its size
                assert EFFECTS[binding.action](on), f"{key} on {screen.value}: {binding.action}"
        assert on.hub.sent == []


@pytest.mark.parametrize(("screen", "binding"), MOVING, ids=lambda part: getattr(part, "action", part).value)
async def test_no_destructive_key_without_confirmation(screen: Screen, binding: Binding) -> None:
    async with stage(size=(100, 30)) as on:
        on.deck.show_list(screen)
        await on.half_second()
        await on.half_second()
        for key in binding.keys:
            await on.press(key)
        if binding.action is Action.ROLLBACK:
            assert [move.kind.value for move in on.hub.sent] == ["rollback"], "armed, so R alone acts"
            return
        assert on.hub.sent == []
        await on.press("enter", "n")
        assert on.hub.sent == [], "neither enter nor any other key stands for y"
        if binding.action not in AT_ONCE:
            return
        await on.press(*binding.keys)
        await on.half_second()
        await on.press("y")
        assert len(on.hub.sent) == 1


def test_what_repeats_moves_nothing() -> None:
    assert {binding.action for binding in BINDINGS if binding.repeats and binding.moves} == set()
