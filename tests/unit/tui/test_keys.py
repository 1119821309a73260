"""The binding table: nothing twice, nothing undone, all of it in the help."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.reference import updated
from scripts.reference_keys import reference
from tests.fakes.console_stage import stage

from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.keys.default_bindings import BINDINGS, COMMANDS, CommandError, complete, parse
from loradeck.tui.keys.personal_keys import DEFAULT
from loradeck.tui.lines.help_text import help_lines
from loradeck.tui.model.state import ORDERED

DOCS = Path(__file__).parents[3] / "docs" / "console.md"


@pytest.mark.parametrize("screen", list(Screen))
def test_no_key_means_two_things_on_a_screen(screen: Screen) -> None:
    keys = [key for binding in BINDINGS if screen in binding.where for key in binding.keys]
    assert len(keys) == len(set(keys))


async def test_every_binding_and_command_is_done_by_the_console() -> None:
    async with stage() as on:
        for binding in BINDINGS:
            for screen in binding.where:
                assert binding.action in {**on.deck.key_actions.handlers, **on.deck.lists[screen].handlers}
    typed = {"promote", "promote!", "q", "save", "ctx", "export"}
    assert set(COMMANDS) - typed <= {binding.action for binding in BINDINGS}


@pytest.mark.parametrize("screen", list(Screen))
@pytest.mark.parametrize("width", [80, 100])
def test_help_names_every_key_and_command_and_fits(screen: Screen, width: int) -> None:
    lines = ["".join(span.text for span in spans) for spans in help_lines(DEFAULT, screen, width)]
    assert max(map(len, lines)) <= width
    firsts = {line.split()[0] for line in lines if line.strip()}
    assert {binding.shown for binding in BINDINGS if screen in binding.where} <= firsts
    assert set(COMMANDS) <= firsts


def test_help_explains_what_its_own_screen_abbreviates_and_not_what_others_do() -> None:
    told = {
        screen: "\n".join("".join(span.text for span in line) for line in help_lines(DEFAULT, screen, 80))
        for screen in Screen
    }
    for word, own in (("no way back", Screen.TENANTS), ("XIDs", Screen.NODES), ("TURNED OUT", Screen.CAPACITY)):
        assert {screen for screen, text in told.items() if word in text} == {own}


def test_the_manual_has_the_tables_that_the_help_is_made_of() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert updated(text, reference()) == text, "run: python -m scripts.reference"
    for binding in BINDINGS:
        assert f"| `{binding.shown}` |" in text


def test_keys_that_move_or_stop_something_exist_on_one_screen_each_and_never_on_records() -> None:
    for binding in BINDINGS:
        if binding.moves and binding.action is not Action.CONFIRM:
            assert len(binding.where) == 1
            assert binding.where <= {Screen.TENANTS, *ORDERED}


def test_a_key_of_another_screen_is_told_from_an_unknown_one() -> None:
    assert DEFAULT.lookup("R", Screen.JOBS) is None
    assert DEFAULT.elsewhere("R", Screen.JOBS) is not None
    assert DEFAULT.elsewhere("~", Screen.JOBS) is None


@pytest.mark.parametrize(
    ("typed", "done"), [("te", "tenants"), ("pro", "promote"), ("promote!", "promote!"), ("zz", "zz"), ("", "")]
)
def test_completion_goes_as_far_as_it_is_unambiguous(typed: str, done: str) -> None:
    assert complete(typed) == done


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("promote v3", ("promote", "v3")),
        ("promote! v3", ("promote!", "v3")),
        ("no", ("nodes", "")),
        ("quit", ("q", "")),
        ("  ", ("", "")),
        ("events acme", ("events", "acme")),
    ],
)
def test_commands_are_understood_from_their_beginning(text: str, parsed: tuple[str, str]) -> None:
    assert parse(text) == parsed


@pytest.mark.parametrize("text", ["frobnicate", "h"])
def test_unknown_and_ambiguous_commands_say_what_there_is(text: str) -> None:
    with pytest.raises(CommandError, match=r"known are|could be"):
        parse(text)
