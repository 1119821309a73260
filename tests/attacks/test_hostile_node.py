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
    assert preview.asks is not None
    assert preview.asks.startswith("breached: bad 100.0% of 10000")

    body = {"expected_generation": 2, "to": one, "idempotency_key": key()}
    await deck.refused(409, "needs_confirmation", "POST", ROLLBACK, body)
    result = MoveResult.model_validate(await deck.ok("POST", ROLLBACK, {**body, "confirmed": True}))
    assert result.events[0].to_release == one
