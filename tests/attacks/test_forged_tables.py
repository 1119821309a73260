"""A node that answers a recover with entries which no hub has made."""

from __future__ import annotations

from pathlib import Path

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key, running

from loradeck.schemas.moves import RecoveryPlan

ACME = ("acme", "production")
STRANGERS_KEY = "5" * 64


async def plan_of(deck: Deck, **more: bool) -> RecoveryPlan:
    answer = await deck.ok("POST", "recover", {"idempotency_key": key(), "dry_run": True, **more})
    return RecoveryPlan.model_validate(answer)


async def test_a_recover_adopts_no_move_and_no_callers_key_that_a_node_made_up(tmp_path: Path) -> None:
    async with running(tmp_path) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        one, two = await deck.release(seed=1), await deck.release(seed=2)
        await deck.promote(one)
        first = agent.entry
        await deck.promote(two)
        before, tenant = deck.hub.log.state.pointers[ACME], deck.hub.log.state.tenants["acme"]

        forged = {"epoch": 7, "generation": 900, "current": first.current, "keys": (*first.keys, STRANGERS_KEY)}
        agent.entries[ACME] = agent.entry.model_copy(update=forged)
        plan = await plan_of(deck)
        assert (plan.steps, plan.further, plan.nodes[0].unsigned) == ((), (), 1)
        assert (await plan_of(deck, unproven=True)).steps, "a person on the hub's host who knows better may believe it"
        body = {"idempotency_key": key(), "reason": "because", "dry_run": False, "plan": plan.digest}
        await deck.ok("POST", "recover", body)
        assert deck.hub.log.state.pointers[ACME] == before
        assert deck.hub.log.state.tenants["acme"] == tenant
        assert deck.hub.log.state.epoch < 7 + 2


async def test_an_entry_whose_signed_text_was_altered_is_none_that_a_hub_made(tmp_path: Path) -> None:
    async with running(tmp_path) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        await deck.promote(await deck.release(seed=1))
        text = agent.entry.signed
        assert text is not None
        body = text.body.replace(f'"generation":{agent.entry.generation}', '"generation":900')
        assert body != text.body
        agent.entries[ACME] = type(agent.entry).opened(text.model_copy(update={"body": body}))
        assert (await plan_of(deck)).steps == ()
