"""Copying through the terminal one sits at."""

from __future__ import annotations

import base64

import pytest
from tests.fakes.console_stage import stage

from loradeck.tui.terminal.clipboard import MOST_BYTES, TooLong, copied


def test_the_sequence_carries_the_text() -> None:
    sequence = copied("ssh gpu-04 \u00e9", {})
    assert sequence.startswith("\x1b]52;c;")
    assert sequence.endswith("\x07")
    assert base64.b64decode(sequence[7:-1]).decode() == "ssh gpu-04 \u00e9"


def test_clipboard_in_tmux_is_wrapped_so_that_it_reaches_the_outer_terminal() -> None:
    sequence = copied("x", {"TMUX": "/tmp/tmux-0/default,1,0"})
    assert sequence.startswith("\x1bPtmux;\x1b\x1b]52;c;")
    assert sequence.endswith("\x1b\\")


def test_more_than_terminals_take_is_refused_and_not_cut() -> None:
    assert len(copied("x" * MOST_BYTES, {})) <= 100_000
    with pytest.raises(TooLong, match="74,995 bytes; terminals take 74,994"):
        copied("x" * (MOST_BYTES + 1), {})


async def test_c_copies_what_names_the_selection_on_every_screen() -> None:
    async with stage() as on:
        for key in "1234567":
            await on.press(key)
            await on.half_second()
            await on.half_second()
            identity = on.deck.state.identity
            assert identity is not None
            await on.press("c")
            assert on.deck.front is not None
            assert on.deck.front.prompt.notice == f"copied {identity} (if your terminal allows OSC 52)"
