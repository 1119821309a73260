"""A node whose agent's token is in the wrong hands: what it says about others, and about what it was never told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.hub_in_process import Deck, key, running, until
from tests.fakes.linked_agent import FakeAgent

from loradeck.rules.serving.canary_agreement import Stated, agreed
from loradeck.schemas.attestation import CanaryRecord
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


# ---- canaries ----------------------------------------------------------------------------------------------------


def canary(release: str, token: int, **more: object) -> dict[str, object]:
    """An attestation of what a release answers, as an agent sends it."""
    item = {"prompt": "f" * 64, "tokens": [token], "margins": [3.0]}
    build = {"engine": "fake", "device": "cpu", "dtype": "float32"}
    body = {"release": release, "build": build, "items": [item], **more}
    return {"kind": "canary", "subject": release, "tenant": "acme", "body": body, "by": "?"}


async def test_a_node_records_no_canary_of_a_release_that_it_was_not_told_to_hold(deck: Deck) -> None:
    await deck.tenant(placement={"site": "eu"})
    await FakeAgent(deck, "n1", site="eu").join()
    await FakeAgent(deck, "n2", site="us").join()
    one = await deck.release(seed=1)
    await deck.promote(one)
    honest, liar, stranger = [await deck.as_role("agent", node) for node in ("n1", "n2", "n3")]
    for client in (liar, stranger):
        await deck.refused(409, "not_held", "POST", "attestations", canary(one, 9), client=client)
    await deck.refused(409, "not_held", "POST", "attestations", canary(await deck.release(seed=2), 9), client=honest)
    kept = await deck.ok("POST", "attestations", canary(one, 1), client=honest)
    assert (kept["by"], [a["seq"] for a in await deck.ok("GET", "attestations?kind=canary")]) == ("n1", [kept["seq"]])


async def test_a_node_withdraws_and_outvotes_nobody_and_a_releaser_does_with_a_reason(deck: Deck) -> None:
    await FakeAgent(deck, "n1").join()
    await FakeAgent(deck, "n2").join()
    one = await deck.release(seed=1)
    await deck.promote(one)
    honest, liar = await deck.as_role("agent", "n1"), await deck.as_role("agent", "n2")
    first = await deck.ok("POST", "attestations", canary(one, 1), client=honest)
    for more in ({"withdraws": [first["seq"]]}, {"reason": "because"}, {"withdraws": [first["seq"]], "reason": "so"}):
        await deck.refused(403, "forbidden", "POST", "attestations", canary(one, 9, **more), client=liar)
    for _ in range(3):
        await deck.ok("POST", "attestations", canary(one, 9), client=liar)
    alike = await deck.ok("POST", "attestations", canary(one, 1), client=liar)
    assert alike["by"] == "n2", "each has a voice of its own, also where it says what another has said"

    async def counts() -> dict[str, tuple[int, ...]]:
        listed = await deck.ok("GET", f"attestations?kind=canary&subject={one}")
        stated = [Stated(a["seq"], a["by"], CanaryRecord.model_validate(a["body"])) for a in listed]
        assert len({one.by for one in stated}) == len(stated) - 1, "what was said again is kept once"
        return {prompt: item.tokens for prompt, item in agreed(stated).items.items()}

    assert await counts() == {"f" * 64: (1,)}
    releaser = await deck.as_role("releaser")
    body = canary(one, 1, items=[], withdraws=[first["seq"], alike["seq"]])
    await deck.refused(422, "reason_required", "POST", "attestations", body, client=releaser)
    body = canary(one, 1, items=[], withdraws=[first["seq"], alike["seq"]], reason="another file")
    await deck.ok("POST", "attestations", body, client=releaser)
    listed = await deck.ok("GET", f"attestations?kind=canary&subject={one}")
    stated = [Stated(a["seq"], a["by"], CanaryRecord.model_validate(a["body"])) for a in listed]
    assert agreed(stated).items["f" * 64].tokens == (9,)
