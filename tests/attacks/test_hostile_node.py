"""A node whose agent's token is in the wrong hands: what it says about others, and about what it was never told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.hub_in_process import Deck, key, running, until
from tests.fakes.linked_agent import FakeAgent

from loradeck.schemas.moves import MoveResult
from loradeck.schemas.state import PreviewAction

ACME = ("acme", "production")
ROLLBACK = "tenants/acme/routes/production/rollback"
LIES = {"attempted": 10_000, "admitted": 10_000, "finished": 10_000, "checked": 10_000, "bad": 10_000}


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    async with running(tmp_path) as deck:
        await deck.tenant()
        yield deck


async def test_bad_figures_of_the_node_that_serves_a_tenant_leave_r_behind_a_question(deck: Deck) -> None:
    agent = await FakeAgent(deck, "n1").join()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await agent.report(agent.served(**LIES))
    await until(lambda: deck.hub.facts.is_breached(deck.hub.log.state.pointers[ACME], one), "v1 is breached")
    await deck.promote(two)
    preview = (await deck.row()).preview
    assert (preview.action, preview.target and preview.target.id) == (PreviewAction.ROLLBACK, one)
    assert preview.asks == "breached: bad 100.0% of 10000, by n1 alone"

    body = {"expected_generation": 2, "to": one, "idempotency_key": key()}
    await deck.refused(409, "needs_confirmation", "POST", ROLLBACK, body)
    result = MoveResult.model_validate(await deck.ok("POST", ROLLBACK, {**body, "confirmed": True}))
    assert result.events[0].to_release == one


async def test_bad_figures_of_one_of_two_nodes_are_shown_as_its_word_alone_and_r_goes_on_unasked(deck: Deck) -> None:
    agent, other = await FakeAgent(deck, "n1").join(), await FakeAgent(deck, "n2").join()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await other.report(other.served(attempted=100, admitted=100, finished=100, checked=100, bad=1))
    await agent.report(agent.served(**LIES))
    await until(lambda: deck.hub.rows.tenant(ACME).cause.alone, "one node alone says so")
    row = await deck.row()
    assert (row.cause.alone, "BAD" in row.flags) == ("n1", True)
    await deck.promote(two)
    preview = (await deck.row()).preview
    assert (preview.target and preview.target.id, preview.asks, preview.skipped) == (one, None, ())


@pytest.mark.parametrize("lie", ["elsewhere", "no engine", "to come"])
async def test_figures_of_what_a_node_was_not_told_to_serve_are_not_counted(deck: Deck, lie: str) -> None:
    placed = {"site": "eu"}
    await deck.tenant(placement=placed)
    honest = await FakeAgent(deck, "n1", site="eu").join()
    liar = await FakeAgent(deck, "n2", site="us" if lie == "elsewhere" else "eu").join()
    await deck.promote(await deck.release(seed=1))
    await honest.report(honest.served(attempted=60, admitted=60, finished=60, checked=60, bad=1))
    row = honest.served(**LIES).model_copy(update={"replica": "n2"})
    wrong: dict[str, dict[str, object]] = {
        "elsewhere": {},
        "no engine": {"replica": "n2.second"},
        "to come": {"generation": 2},
    }
    await liar.report(row.model_copy(update=wrong[lie]), row.model_copy(update={"tenant": "nobody"}))
    await until(lambda: deck.hub.counts.fault("n2"), "held back")
    await until(lambda: deck.hub.rows.tenant(ACME).minute.attempted == 60, "the honest node's are counted")
    assert "are not counted" in deck.hub.counts.fault("n2")
    assert deck.hub.counts.fault("n1") == ""
    now = await deck.row()
    assert (now.cause.live.bad, now.cause.alone, "BAD" in now.flags) == (1, "", False)
    assert {key for key in deck.hub.counts._counters if any(deck.hub.counts.counters(key))} <= {ACME}
