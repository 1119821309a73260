"""A node's agent.toml and token, copied to a second host: whoever runs there is as good as the node, and as bad."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, running
from tests.fleets.waiting import until

from loradeck.schemas.link import NodeOrder
from loradeck.schemas.replica_state import AckState


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    async with running(tmp_path) as deck:
        await deck.tenant()
        yield deck


def _told(agent: LinkedAgent) -> bool:
    orders = [message for message in agent.received if isinstance(message, NodeOrder)]
    return bool(orders) and orders[-1].contested


@pytest.mark.parametrize("boot", ["its own", "the original's"])
async def test_a_copied_node_takes_the_word_from_both_and_r_reaches_both(deck: Deck, boot: str) -> None:
    original, other = await LinkedAgent(deck, "n1").join(), await LinkedAgent(deck, "n2").join()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await deck.promote(two)
    copy = LinkedAgent(deck, "n1")
    if boot == "the original's":
        copy.boot = original.boot
    copy.flips = False  # it serves the release that is to be left
    await copy.join(await deck.token("agent", "n1"))
    await until(lambda: _told(original) and _told(copy), "both are told")

    original.flips = False
    await deck.rollback()
    await until(lambda: all(a.entry.current and a.entry.current.id == one for a in (original, copy)), "R reaches both")
    await copy.ack(copy.entry, AckState.PROVEN)
    lies = dict.fromkeys(("attempted", "admitted", "finished", "checked", "bad"), 10_000)
    await copy.report(copy.served(**lies), router_boot="another")
    await until(lambda: deck.hub.replicas.acks(("acme", "production")).get("n2"), "the other node has flipped")
    row = await deck.row()
    assert (row.flipped, row.proven, row.placed) == (1, 1, 2), "neither of the two counts"
    assert {replica.code for replica in row.replicas if replica.node == "n1"} == {"contested"}
    assert not deck.hub.facts.is_breached(deck.hub.log.state.pointers["acme", "production"], one)
    node = next(row for row in await deck.ok("GET", "nodes") if row["node"] == "n1")
    assert (node["contested"], node["lost"]) == (["127.0.0.1", "127.0.0.1"], True)
    assert (original.closed, copy.closed, other.closed) == (None, None, None)

    await copy.leave()
    await until(lambda: original.closed, "the original is to say hello again")
    original.flips = True
    await original.leave()
    await original.join()
    await until(lambda: deck.hub.replicas.progress(("acme", "production")).flipped == 2, "it counts again")
    assert not _told(original)


async def test_a_copied_node_gets_no_job_and_records_no_canary(deck: Deck) -> None:
    original, copy = await LinkedAgent(deck, "n1").join(), LinkedAgent(deck, "n1")
    token = await deck.token("agent", "n1")
    await copy.join(token)
    await until(lambda: _told(original) and _told(copy), "both are told")
    item = {"prompt": "f" * 64, "tokens": [1], "margins": [3.0]}
    build = {"engine": "fake", "device": "cpu", "dtype": "float32"}
    release = await deck.release(seed=1)
    body = {"release": release, "build": build, "items": [item]}
    said = {"kind": "canary", "subject": release, "body": body, "tenant": "acme", "by": "?"}
    client = await deck.as_role("agent", "n1")
    await deck.refused(409, "contested", "POST", "attestations", said, client=client)
    assert not deck.hub.queue.leases("n1")
