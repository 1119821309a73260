"""A terminal that takes 2 kB a second, and consoles that end: no key waits for it or acts on what it has not shown."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.integration.tui.conftest import Site
from tests.integration.tui.terminal import START, Terminal, console

SLOW = 2000
"""Bytes a second."""


@asynccontextmanager
async def drained(terminal: Terminal, bytes_per_s: int) -> AsyncIterator[None]:
    reader = asyncio.create_task(terminal.drain(bytes_per_s))
    try:
        yield
    finally:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
        terminal.resume()


async def scroll(terminal: Terminal, keys: int) -> None:
    """The cursor up and down at 30 Hz, each key in a read of its own."""
    for n in range(keys):
        terminal.type("jk"[n % 2])
        await asyncio.sleep(1 / 30)


async def test_a_slow_terminal_is_not_waited_for_by_a_rollback(site: Site) -> None:
    await site.hub.tenant("bolt")
    await site.hub.promote(await site.hub.release("bolt", seed=7), "bolt")
    async with console(site.here) as terminal:
        await terminal.shows("> acme", "bolt", "R ARMED")
        terminal.type("jk")
        await terminal.shows("> acme", "R ARMED")
        async with drained(terminal, SLOW):
            await asyncio.sleep(0.2)
            terminal.type("R")
            await terminal.until(lambda: site.live == site.releases[1], "rolled back")
        await terminal.shows("BACK ON v2/B1", "PROVEN 2/2")


async def test_a_slow_terminal_never_lets_a_key_act_on_an_unseen_row(site: Site) -> None:
    for name in ("bolt", "cedar"):
        await site.hub.tenant(name)
        for seed in (7, 8):
            await site.hub.promote(await site.hub.release(name, seed=seed), name)
    async with console(site.here) as terminal:
        await terminal.shows("acme", "bolt", "cedar", "ARMED")
        before = {key: pointer.generation for key, pointer in site.hub.hub.log.state.pointers.items()}
        async with drained(terminal, 200):
            for key in "jRjRkRy":
                terminal.type(key)
                await asyncio.sleep(0.06)  # each key is a read of its own, faster than the terminal shows anything
        help_ = "Keys on the tenants screen"
        for _ in range(12):
            terminal.type("?")  # on a busy machine it comes in one read with the keys before it, and is not taken
            with contextlib.suppress(AssertionError):
                await terminal.shows(help_, seconds=5)
                break
        await terminal.shows(help_)  # all keys before it have been taken
        terminal.type("q")
        await terminal.until(lambda: help_ not in terminal.text, "it is left")
        terminal.type("q")
        assert await terminal.ended() == 0, "no move is under way"
        assert {key: pointer.generation for key, pointer in site.hub.hub.log.state.pointers.items()} == before


async def test_keys_held_down_on_a_slow_terminal_pile_up_no_frames(site: Site) -> None:
    for name in ("bolt", "cedar"):
        await site.hub.tenant(name)
        await site.hub.promote(await site.hub.release(name, seed=7), name)
    async with console(site.here) as terminal:
        await terminal.shows("acme", "bolt", "cedar")
        async with drained(terminal, SLOW):
            await scroll(terminal, 90)
            taken = len(terminal.raw)
        # What was drawn meanwhile fits into the terminal's own buffer: the frames in between were never written.
        await asyncio.sleep(1.0)  # the kernel's buffer of the terminal is empty by then
        assert len(terminal.raw) - taken < 20_000
        terminal.type("q")
        assert await terminal.ended() == 0


CRASH = START.replace(
    "name, url,",
    """
def fails(self): raise RuntimeError("on purpose")
from loradeck.tui.actions.key_actions import KeyActions
KeyActions._help = fails
name, url,""",
)


async def test_a_crash_leaves_the_terminal_clean_and_names_the_log(site: Site, tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    async with console(site.here, env=env, program=CRASH) as terminal:
        await terminal.shows("acme")
        terminal.type("?")
        assert await terminal.ended() == 1
        assert terminal.is_clean
        log = tmp_path / "loradeck" / "console.log"
        assert f"log: {log}" in terminal.raw.decode().replace("\r\n", "")
        assert "RuntimeError: on purpose" in log.read_text()
        assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_leaves_the_terminal_clean_and_names_the_log(
    site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    async with console(site.here, env={"XDG_STATE_HOME": str(tmp_path)}) as terminal:
        await terminal.shows("acme")
        assert terminal.process is not None
        terminal.process.send_signal(number)
        assert await terminal.ended() == 128 + number
        assert terminal.is_clean
        log = tmp_path / "loradeck" / "console.log"
        assert f"ended by {number.name}" in terminal.raw.decode()
        assert f"log: {log}" in terminal.raw.decode().replace("\r\n", "")
        assert f"ended by {number.name}" in log.read_text()
