"""Watching a program that somebody else runs: what counts as up, gone, and another process."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from loradeck_agent.host import supervisor
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.supervisor import SILENCES, Watched

REFUSED = Unreachable("engine.sock", "connection refused")
SILENT = Unreachable("engine.sock", "took more than 10 s", silent=True)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "WATCH_S", 0)


async def watch(*looks: str | AgentError | None, unfit: int = 0) -> list[str]:
    """What the owner is told over a sequence of looks. `unfit`: how often it cannot take the process over."""
    told: list[str] = []
    left = list(looks)
    over = asyncio.Event()

    async def probe() -> str | None:
        if not left:
            over.set()
            await asyncio.Event().wait()
        look = left.pop(0)
        if isinstance(look, AgentError):
            raise look
        return look

    async def came_up(boot: str) -> None:
        told.append(f"up {boot}")
        if told.count(f"up {boot}") <= unfit:
            raise AgentError("wrong_base", "another base")

    async def went_down() -> None:
        told.append("down")

    async def look() -> None:
        told.append("look")

    run = asyncio.create_task(Watched("engine e0", probe=probe, came_up=came_up, went_down=went_down, look=look).run())
    await over.wait()
    run.cancel()
    with suppress(asyncio.CancelledError):
        await run
    return told


async def test_one_that_is_there_is_taken_over_and_looked_at() -> None:
    assert await watch("b1", "b1", "b1") == ["up b1", "look", "look"]


async def test_one_that_is_not_there_at_first_is_down_until_it_comes() -> None:
    assert await watch(REFUSED, REFUSED, None, "b1", "b1") == ["down", "up b1", "look"]


async def test_a_refused_connection_is_the_end_at_once() -> None:
    assert await watch("b1", REFUSED, "b2") == ["up b1", "down", "up b2"]


async def test_another_boot_is_the_end_of_the_one_before() -> None:
    assert await watch("b1", "b2") == ["up b1", "down", "up b2"]


async def test_one_that_says_it_is_not_healthy_is_down() -> None:
    assert await watch("b1", None, "b1") == ["up b1", "down", "up b1"]


async def test_one_that_is_slow_to_answer_is_not_gone_until_it_was_silent_for_long() -> None:
    assert await watch("b1", *[SILENT] * (SILENCES - 1), "b1") == ["up b1", *["look"] * SILENCES]
    assert (await watch("b1", *[SILENT] * SILENCES))[-1] == "down"


async def test_one_that_cannot_be_taken_over_is_down_and_tried_at_every_look() -> None:
    assert await watch("b1", "b1", "b1", "b1", unfit=2) == ["up b1", "down", "up b1", "up b1", "look"]
