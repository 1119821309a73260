"""Copying through the terminal one sits at."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import pytest
from tests.fakes.console_stage import Stage, notice, stage

from loradeck.tui.terminal.export import MOST_BYTES


async def test_the_sequence_that_copies_carries_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMUX", raising=False)
    async with stage() as on:
        written: list[str] = []
        assert on.deck._driver is not None
        monkeypatch.setattr(on.deck._driver, "write", written.append)
        await on.press("c")
        (sequence,) = [text for text in written if text.startswith("\x1b]52;c;")]
        assert sequence.endswith("\x07")
        assert base64.b64decode(sequence[7:-1]).decode() == on.deck.state.identity


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *, status: int) -> Path:
    """A tmux that keeps its arguments and what it reads, and the file that it keeps them in."""
    took = folder / "took"
    program = folder / "tmux"
    program.write_text(f'#!/bin/sh\n(echo "$@"; cat) > {took}\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")
    return took


async def told_of_tmux(on: Stage) -> None:
    """Waits until the screen says what tmux did."""
    async with asyncio.timeout(60):
        while "tmux" not in notice(on):
            await on.pause()


async def test_in_tmux_the_text_goes_into_a_buffer_and_the_screen_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = stand_in(tmp_path, monkeypatch, status=0)
    async with stage() as on:
        await on.press("c")
        await told_of_tmux(on)
        assert "to a buffer of tmux" in notice(on)
        assert took.read_text() == f"load-buffer -w -\n{on.deck.state.identity}"


async def test_where_tmux_takes_nothing_the_screen_does_not_say_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, status=1)
    async with stage() as on:
        await on.press("c")
        await told_of_tmux(on)
        assert notice(on).startswith("not copied: tmux did not take")


async def test_more_than_terminals_take_is_refused_and_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(base64.b64encode(b"x" * MOST_BYTES)) <= 100_000
    monkeypatch.setattr("loradeck.tui.actions.key_actions.MOST_BYTES", 63)
    async with stage() as on:
        await on.press("c")
        assert notice(on) == "not copied: 64 bytes; terminals take 63"


async def test_c_copies_what_names_the_selection_on_every_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMUX", raising=False)
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
