"""What was chosen on a node without the hub: recorded once, shown as drift, ended only by an unpin of that pin."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, key, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.hub.links.pins import AT_MOST
from loradeck.rules.serving.proof import Reached
from loradeck.schemas.ids import Role
from loradeck.schemas.link import Desired
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.moves import MoveResult
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import Pin

ROUTE = "tenants/acme/routes/production"
ACME = ("acme", "production")


async def two_releases(deck: Deck, join: Join) -> tuple[LinkedAgent, str, str]:
    """v1 beneath v2 on one node."""
    await deck.tenant()
    agent = await join("n1")
    first, second = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(first)
    await deck.promote(second)
    return agent, first, second


def pin(agent: LinkedAgent, at_ms: int, **more: Any) -> Pin:
    """What lies beneath is chosen."""
    fields: dict[str, Any] = {
        "tenant": "acme",
        "route": "production",
        "release": agent.entry.beneath[0],
        "over": agent.entry.fence,
        "actor": "ops",
        "reason": "the hub was away",
        "at_ms": at_ms,
        "left": agent.entry.current.id if agent.entry.current else None,
    }
    return Pin(**(fields | more))


async def pins_in(deck: Deck) -> list[Event]:
    found = [Event.model_validate(e) for e in await deck.ok("GET", "events?tenant=acme&route=production")]
    return [event for event in reversed(found) if event.kind is EventKind.PIN]


async def unpin(deck: Deck, **more: Any) -> Any:
    return await deck.ok("POST", f"{ROUTE}/unpin", {"node": "n1", "idempotency_key": key(), **more})


async def test_a_pin_is_in_the_log_once_with_who_why_from_to_and_when(deck: Deck, join: Join) -> None:
    agent, first, second = await two_releases(deck, join)
    before = deck.hub.log.state.pointers[ACME]
    agent.pins = (pin(agent, 1_000),)
    await agent.report()
    await until(lambda: deck.hub.log.recent[-1].kind is EventKind.PIN, "it is in the log")
    rev = deck.hub.log.state.rev
    for _ in range(3):
        await agent.report()
    await agent.leave()
    await agent.join()
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].heard, "heard again")
    (event,) = await pins_in(deck)
    assert (event.actor, event.role, event.reason) == ("ops@n1", Role.AGENT, "the hub was away")
    assert (event.from_release, event.to_release) == (second, first)
    assert event.payload == {"node": "n1", "release": first, "over": list(agent.entry.fence), "at_ms": 1_000}
    assert deck.hub.log.state.rev == rev
    assert deck.hub.log.state.pointers[ACME] == before, "a pin moves no pointer"
    row = await deck.row()
    assert "PIN" in row.flags
    assert row.replicas[0].pinned == first
    assert (await deck.ok("GET", "audit/verify"))["ok"]


async def test_a_pin_is_written_by_the_next_hub_when_the_last_one_could_not_and_never_twice(data: Path) -> None:
    agent: LinkedAgent | None = None

    async def join(node: str = "n1", **more: Any) -> LinkedAgent:
        nonlocal agent
        agent = LinkedAgent(deck, node, **more)
        return await agent.join()

    async with running(data) as deck:
        agent, first, _ = await two_releases(deck, join)
        token = await deck.token("agent", "n1")
        await agent.leave()
    agent.pins = (pin(agent, 1_000),)
    for _ in range(2):
        async with running(data) as deck:
            agent.deck = deck
            pins, agent.pins = agent.pins, ()
            await agent.join(token)
            await deck.hub.flush()
            agent.pins = pins
            await agent.report()
            await until(lambda deck=deck: deck.hub.pins._recorded, "it was heard")
            await until(lambda deck=deck: not deck.hub.background._tasks, "it was written")
            (event,) = await pins_in(deck)
            assert event.to_release == first
            await agent.leave()
            row = await deck.row()
            assert row.replicas[0].pinned == first, "what it last said stands beside its age"
            assert "PIN" in row.flags
    async with running(data) as deck:
        row = await deck.row()
        assert (row.replicas[0].pinned, row.replicas[0].heard_age_s) == (first, None)


async def test_an_unpin_ends_the_pin_that_was_seen_and_none_that_was_made_later(deck: Deck, join: Join) -> None:
    agent, _, second = await two_releases(deck, join)
    agent.pins = (pin(agent, 1_000),)
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].pins, "the pin was reported")
    await agent.leave()
    result = await unpin(deck, reason="it is back")
    assert result["events"][0]["payload"] == {"node": "n1", "until_ms": 1_000}

    # Meanwhile somebody on the node has chosen again. The node's clock is far behind the hub's.
    agent.pins = (pin(agent, 2_000, release=agent.entry.current, left=agent.entry.beneath[0].id),)
    seen = len(agent.received)
    await agent.join()
    assert next(m for m in agent.received[seen:] if isinstance(m, Desired)).unpin == ()
    await until(lambda: deck.hub.log.recent[-1].kind is EventKind.PIN, "the second pin is in the log")
    assert [event.to_release for event in await pins_in(deck)][-1] == second
    assert "PIN" in (await deck.row()).flags

    seen = len(agent.received)
    await unpin(deck)
    await until(lambda: any(isinstance(m, Desired) and m.unpin == (ACME,) for m in agent.received[seen:]), "it is told")
    agent.pins = ()
    await agent.report()
    await until(lambda: not deck.hub.fleet.nodes["n1"].pins, "the pin is gone")
    assert "PIN" not in (await deck.row()).flags


async def test_a_node_that_was_away_is_told_of_an_unpin_with_its_hello_also_by_the_next_hub(data: Path) -> None:
    async def join(node: str = "n1", **more: Any) -> LinkedAgent:
        return await LinkedAgent(deck, node, **more).join()

    async with running(data) as deck:
        agent, _, _ = await two_releases(deck, join)
        token = await deck.token("agent", "n1")
        agent.pins = (pin(agent, 1_000),)
        await agent.report()
        await until(lambda: deck.hub.log.recent[-1].kind is EventKind.PIN, "it is in the log")
        await agent.leave()
        await unpin(deck)
    async with running(data) as deck:
        agent.deck = deck
        seen = len(agent.received)
        await agent.join(token)
        assert next(m for m in agent.received[seen:] if isinstance(m, Desired)).unpin == (ACME,)
        await agent.leave()


async def test_what_no_hub_knows_to_be_pinned_cannot_be_unpinned(deck: Deck, join: Join) -> None:
    await two_releases(deck, join)
    problem = await deck.refused(409, "not_pinned", "POST", f"{ROUTE}/unpin", {"node": "n1", "idempotency_key": key()})
    assert "n1" in problem.title
    assert "last heard" in problem.detail


async def test_an_unpin_that_is_sent_again_after_its_answer_was_lost_is_answered_as_before(
    deck: Deck, join: Join
) -> None:
    agent, _, _ = await two_releases(deck, join)
    agent.pins = (pin(agent, 1_000),)
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].pins, "the pin was reported")
    once = key()
    first = await unpin(deck, idempotency_key=once)
    again = await unpin(deck, idempotency_key=once)
    assert (again["replayed"], again["events"]) == (True, first["events"])


async def test_pins_of_what_this_log_does_not_have_are_not_written(deck: Deck, join: Join) -> None:
    agent, first, _ = await two_releases(deck, join)
    rev = deck.hub.log.state.rev
    good = pin(agent, 1_000)
    forged = good.release.model_copy(update={"id": "f" * 64})
    agent.pins = (
        pin(agent, 1_000, route="nowhere"),
        pin(agent, 1_000, tenant="globex"),
        pin(agent, 1_000, release=forged),
    )
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].pins, "they were reported")
    await asyncio.sleep(0)
    assert deck.hub.log.state.rev == rev
    agent.pins = (*agent.pins, good)
    await agent.report()
    await until(lambda: deck.hub.log.recent[-1].kind is EventKind.PIN, "the good one is in the log")
    assert (deck.hub.log.state.rev, deck.hub.log.recent[-1].to_release) == (rev + 1, first)


async def test_a_node_that_pins_again_and_again_does_not_fill_the_log(deck: Deck, join: Join) -> None:
    agent, _, _ = await two_releases(deck, join)
    for turn in range(20):
        agent.pins = (pin(agent, 1_000 + turn),)
        await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].pins == agent.pins, "all were reported")
    await until(lambda: not deck.hub.background._tasks, "nothing is being written")
    assert len(await pins_in(deck)) == AT_MOST


async def test_pins_wait_for_a_hub_that_may_write_and_are_written_then(deck: Deck, join: Join) -> None:
    agent, first, _ = await two_releases(deck, join)
    deck.hub.log.lease_lost = True
    agent.pins = (pin(agent, 1_000),)
    rev = deck.hub.log.state.rev
    for _ in range(AT_MOST + 1):
        await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].pins, "they were reported")
    assert deck.hub.log.state.rev == rev
    deck.hub.log.lease_lost = False
    await agent.report()
    await until(lambda: deck.hub.log.recent[-1].kind is EventKind.PIN, "it is in the log")
    assert deck.hub.log.recent[-1].to_release == first


async def test_nobody_waits_for_a_replica_that_is_pinned_elsewhere_and_it_counts_as_nothing(
    deck: Deck, join: Join
) -> None:
    _, first, _ = await two_releases(deck, join)
    other = await join("n2")
    await deck.settled()
    other.flips = other.proves = False
    seen = len(other.received)
    path = f"{ROUTE}/rollback?wait=proven&timeout=600"  # longer than the test's client waits
    rolling = asyncio.create_task(deck.ok("POST", path, await deck.rollback_body()))
    await until(lambda: any(isinstance(m, Desired) and m.entries for m in other.received[seen:]), "it is told")
    await other.ack(other.entry, AckState.WAITING, code="pinned", detail="v2 by ops")
    result = MoveResult.model_validate(await rolling)
    assert result.reached == "committed"
    row = await deck.row()
    assert (row.pointer.release, row.flipped, row.proven, row.placed) == (first, 1, 1, 2)
    assert row.settled
    assert row.attested is None
    other.flips = other.proves = True
    await other.acknowledge(other.entry)
    await until(
        lambda: deck.hub.replicas.progress(ACME).reached is Reached.PROVEN, "its pin has ended, and it has got there"
    )
