"""Gates, adapters and data: fetched when they are looked at, and never older than they say."""

from __future__ import annotations

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Stage, pane, stage

from loradeck.client.feed import FeedLink, LinkChange
from loradeck.schemas.attestation import Attestation, AttestationKind, CheckResult, GateResult
from loradeck.schemas.freshness import LoopStep
from loradeck.tui.keys.action import Screen
from loradeck.tui.lines.loop import loop_cells
from loradeck.tui.lines.registry import gate_lines
from loradeck.tui.model.feed_state import FETCHED
from loradeck.tui.model.registry import REFRESH_S, Registry
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.theme import STYLES

KEYS = {
    Screen.GATES: "4",
    Screen.ADAPTERS: "5",
    Screen.DATA: "7",
    Screen.CAPACITY: "8",
    Screen.ML: "9",
    Screen.CAMPAIGNS: "90",
}


def grid(on: Stage) -> str:
    assert on.deck.front is not None
    return on.deck.front.grid.text


def summary(on: Stage) -> str:
    assert on.deck.front is not None
    return on.deck.front.summary.text


async def look(on: Stage, which: Screen) -> None:
    await on.press(*KEYS[which])
    await on.half_second()
    await on.half_second()


async def test_what_is_not_known_of_a_pool_is_no_zero() -> None:
    async with stage() as on:
        await on.press(":", *"capacity", "enter")
        await on.half_second()
        await on.half_second()
        other = grid(on).splitlines()[1]
        assert [word in other for word in ("unknown", "1/2", "41/128")] == [True] * 3
        await on.press("j")
        await on.half_second()
        assert "device unknown   host 41/128" in pane(on)
        assert "nobody asked, or not known" in pane(on)
        assert "- waiting   - refused, it was full   - cold starts in the last minute" in pane(on)


async def test_a_route_that_is_frozen_says_until_when_and_that_it_has_no_dataset_yet() -> None:
    async with stage() as on:
        await on.press(":", *"ml", "enter")
        await on.half_second()
        await on.half_second()
        await on.press("j", "j")
        await on.half_second()
        assert "until incident INC-2210 is closed" in pane(on)
        assert "no dataset yet" in pane(on)


@pytest.mark.parametrize("which", sorted(FETCHED))
async def test_a_hub_that_does_not_answer_is_loading_then_trouble_and_never_empty(which: Screen) -> None:
    async with stage() as on:
        on.hub.away = True
        await look(on, which)
        assert "no answer: the hub cannot be reached" in grid(on)
        assert on.deck.state.listing.total == 0
        on.hub.away = False
        on.clock.now += REFRESH_S
        await on.half_second()
        await on.half_second()
        assert "no answer" not in grid(on)
        assert on.deck.state.listing.total > 0


async def test_rows_that_cannot_be_fetched_again_stay_and_say_how_old_they_are() -> None:
    async with stage() as on:
        await look(on, Screen.GATES)
        on.hub.away = True
        on.clock.now += 30
        on.deck.state.heard_at = on.clock.now
        await on.half_second()
        await on.half_second()
        assert "3 gate results" in summary(on)
        assert "as of 3" in summary(on)
        assert "the hub cannot be reached" in summary(on)
        assert "acme/production" in grid(on)


async def test_nothing_is_asked_of_a_hub_that_is_not_there() -> None:
    async with stage() as on:
        on.hub.says.put_nowait(LinkChange(state=FeedLink.LOST, at=0.0, why="the link broke", fix=""))
        await on.pause()
        await look(on, Screen.GATES)
        assert on.deck.state.fetches[Screen.GATES].at is None
        assert "loading" in grid(on)


async def test_a_filter_finds_failed_gates() -> None:
    async with stage() as on:
        await look(on, Screen.GATES)
        await on.press("/", *"failed", "enter")
        assert [on.deck.state.registry.gates[seq].tenant for seq in on.deck.state.gate_list.order] == ["acme"]


def test_a_gate_result_of_another_version_is_counted_and_left_out() -> None:
    registry = Registry()
    strange = Attestation(
        seq=99, kind=AttestationKind.GATE, subject=seed.digest("x"), tenant="acme", body={"new": 1}, by="ci-bot"
    )
    registry.replace_gates([*seed.gates(), strange])
    assert len(registry.gates) == 3
    assert registry.unreadable == 1


async def test_a_drop_says_what_it_was_counted_from_and_a_review_who_signed() -> None:
    suite, other = seed.digest("suite"), seed.digest("red team")
    share = {"n": 246, "low": 0.01, "high": 0.1, "suite": suite}
    drop = CheckResult(
        name="drop", passed=False, value=0.057, threshold=0.05, lost=20, won=6, p=0.0047, visible=0.0513, **share
    )
    red = drop.model_copy(update={"name": "exact", "suite": other, "lost": None})
    signed = CheckResult(
        name="review", passed=True, value=1, threshold=2, n=20, low=1, high=1, unit="people", note="signed off by ann"
    )
    third = drop.model_copy(update={"tried": 3, "level": 0.01 / 6, "effective": 183})
    checks = (drop, red, signed, third)
    result = GateResult(release=seed.digest("r"), against=None, suite=suite, passed=False, checks=checks)
    written = Attestation(
        seq=9, kind=AttestationKind.GATE, subject=result.release, tenant="acme", route="production", by="hub",
        body=result.model_dump(mode="json"),
    )  # fmt: skip
    registry = Registry()
    registry.replace_gates([written])
    async with stage() as on:
        await look(on, Screen.GATES)
        lines = gate_lines(on.deck.state, registry.gates[9], 160)
    told = ["".join(span.text for span in line) for line in lines]
    assert "5.7% (1.0% to 10.0%, n = 246)   at most 5.0%" in told[1]
    assert told[2].strip() == "20 lost, 6 won, p 0.005; drop it can see: 5.1% or more"
    assert f"n = 246) on {other[:6]}   at least" in told[3]
    assert told[4].split("passed")[1].split("   ") == ["  1 of 2 signed", "enter: the answers", "signed off by ann"]
    assert "n = 246, effectively 183)" in told[5]
    assert told[6].endswith("drop it can see: 5.1% or more; third try on this suite; judged at 0.17 %")


@pytest.mark.parametrize("which", [Screen.ADAPTERS, Screen.DATA])
async def test_what_the_pane_says_begins_in_one_column(which: Screen) -> None:
    async with stage() as on:
        await look(on, which)
        said = [text for text in pane(on).splitlines()[1:] if text.strip()]
        columns = {len(text) - len(text[1:].partition(" ")[2].lstrip()) for text in said}
        assert len(said) >= 4
        assert len(columns) == 1


@pytest.mark.parametrize("step", LoopStep)
def test_a_route_at_each_step_of_the_loop_has_a_style_that_there_is(step: LoopStep) -> None:
    row = next(one for one in seed.loop() if one.loop is not None)
    assert row.loop is not None
    at = row.model_copy(update={"loop": row.loop.model_copy(update={"step": step})})
    assert {span.style for span in loop_cells(ConsoleState(), at).values()} <= STYLES.keys()
