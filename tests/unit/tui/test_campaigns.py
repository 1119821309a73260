"""The campaigns screen: what it says, and its keys, which ask first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Stage, notice, pane, stage

from loradeck.schemas.campaign import CampaignState
from loradeck.schemas.moves import RewindPlan, RewindStep
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.widgets.page import Page


async def look(on: Stage, *keys: str) -> str:
    await on.press(*keys)
    await on.half_second()
    await on.half_second()
    return pane(on)


async def test_a_stopped_campaign_says_why_and_enter_shows_each_of_its_nodes() -> None:
    async with stage() as on:
        await look(on, "9", "0")
        assert "2 of 2 routes have failed" in await look(on, "j")
        await on.press("enter")
        await on.half_second()
        assert isinstance(on.deck.screen, Page)
        assert "gpu-02" in on.deck.screen.body.text


async def test_a_pause_asks_first_and_is_off_where_there_is_nothing_to_pause() -> None:
    async with stage() as on:
        on.hub.obeys = lambda order: seed.campaigns()[0].model_copy(update={"state": CampaignState.PAUSED})
        await look(on, "9", "0")
        await on.press("S")
        assert "S off: to-b2 is running" in notice(on)
        text = await look(on, "P")
        assert "P pause to-b2 (running): nothing more begins" in text
        assert on.hub.ordered == []
        text = await look(on, "y")
        assert [(one.action, one.subject) for one in on.hub.ordered] == [(Action.PAUSE, "to-b2")]
        assert "P pause to-b2: it is paused" in text


async def test_a_rewind_shows_what_moves_and_sends_what_was_planned() -> None:
    async with stage() as on:
        steps = [RewindStep(tenant="bolt", route="production", generation=7, from_release=None, to_release=None)]
        on.hub.plan = RewindPlan(to_rev=88_397, at_ms=None, steps=tuple(steps))
        await look(on, "9", "0")
        text = await look(on, "W")
        assert "W to-b2: 1 route back to what they had before it" in text
        assert "1 that were moved since stay" in " ".join(text.split())
        assert "moves  bolt/production" in text
        assert on.hub.put_back == []
        text = await look(on, "y")
        ((name, request),) = on.hub.put_back
        assert (name, request.dry_run, request.generations) == ("to-b2", False, {"bolt/production": 7})
        assert "committed, rev 88420" in text


@pytest.mark.parametrize(("asks", "goes"), [(("9", "0", "W"), ("1",)), (("p",), ("9", "0"))])
async def test_a_question_that_took_a_while_is_put_on_no_other_screen(
    monkeypatch: pytest.MonkeyPatch, asks: tuple[str, ...], goes: tuple[str, ...]
) -> None:
    async with stage() as on:
        step = RewindStep(tenant="bolt", route="production", generation=7, from_release=None, to_release=None)
        on.hub.plan = RewindPlan(to_rev=88_397, at_ms=None, steps=(step,))
        answered, plan, releases = asyncio.Event(), on.hub.plan_campaign_rewind, on.hub.releases

        async def plan_late(*given: Any) -> RewindPlan:
            await answered.wait()
            return await plan(*given)

        async def releases_late(*given: Any) -> Any:
            await answered.wait()
            return await releases(*given)

        monkeypatch.setattr(on.hub, "plan_campaign_rewind", plan_late)
        monkeypatch.setattr(on.hub, "releases", releases_late)
        await look(on, *asks[:-1])
        await look(on, asks[-1])
        await look(on, *goes)
        answered.set()
        await on.half_second()
        assert "dropped: you have moved on" in notice(on)
        assert on.deck.moves.question is None


async def test_a_list_that_is_there_is_asked_only_for_what_has_changed_and_of_another_hub_for_all() -> None:
    async with stage() as on:
        await look(on, "9", "0")
        registry = on.deck.state.registry
        assert (on.hub.campaigns_since, sorted(registry.campaigns)) == ([None], ["to-b2", "vllm-033"])
        await on.deck.queries._fetch(Screen.CAMPAIGNS)
        assert (on.hub.campaigns_since[1:], sorted(registry.campaigns)) == ([900], ["to-b2", "vllm-033"])
        registry.campaigns_epoch -= 1
        await on.deck.queries._fetch(Screen.CAMPAIGNS)
        assert on.hub.campaigns_since[2:] == [None]
