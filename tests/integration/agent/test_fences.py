"""Which words of a hub count: old epochs, gaps, differing tables, a log that lacks ours."""

from __future__ import annotations

from tests.fleets.waiting import until
from tests.integration.agent.artifacts import Adapter, entry
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.link import Ack, Hello, NodeOrder, Resync

KEYS = (CALLER_HASH,)


async def serving(hub: FakeHub, v1: Adapter, v2: Adapter, *, epoch: int = 1) -> None:
    first = entry(v1.ref, 1, epoch=epoch, beneath=(v2.ref,), keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")


async def test_a_directive_of_an_older_epoch_is_ignored_and_changes_nothing(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    hub.epoch = 5
    await serving(hub, v1, v2, epoch=5)
    before = await node.router_state()
    await hub.send_table([entry(v2.ref, 9, epoch=4, keys=KEYS)], epoch=4, rev=99, prev_rev=0)
    marker = entry(v1.ref, 1, epoch=5, beneath=(v2.ref,), keys=KEYS, route="staging")
    await hub.desire(marker)  # what comes after it in the same stream was handled after it
    await hub.ack(marker, "flipped")
    after = await node.router_state()
    assert {e.key: e for e in after.entries}["acme", "production"] == before.entries[0]
    assert await node.tokens("hello") == v1.tokens("hello")
    assert "is stale" in node.log_text()


async def test_a_stale_generation_is_refused_and_changes_nothing(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await serving(hub, v1, v2)
    newer = entry(v2.ref, 3, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(newer)
    await hub.ack(newer, "proven")
    hub.rev += 1
    await hub.send_table([entry(v1.ref, 2, keys=KEYS)], prev_rev=hub.rev - 1)
    marker = entry(v1.ref, 1, keys=KEYS, route="staging")
    await hub.desire(marker)
    await hub.ack(marker, "flipped")
    assert await node.tokens("hello") == v2.tokens("hello")
    assert not [ack for ack in hub.of(Ack) if ack.generation == 2]
    assert not hub.of(Resync), "its table is still the hub's"


async def test_a_gap_asks_for_everything_and_ends_there(node: Node, hub: FakeHub, v1: Adapter, v2: Adapter) -> None:
    await serving(hub, v1, v2)
    unheard = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    hub.entries[unheard.key] = unheard
    hub.rev += 2
    await hub.send_table([], prev_rev=hub.rev - 1)
    asked = await hub.wait(Resync)
    assert "were missed" in asked.why
    await hub.ack(unheard, "proven")
    assert await node.tokens("hello") == v2.tokens("hello")


async def test_a_table_that_differs_from_the_hubs_asks_for_everything(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await serving(hub, v1, v2)
    lost = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    hub.entries[lost.key] = lost
    hub.rev += 1
    await hub.send_table([], prev_rev=hub.rev - 1)  # a delta that lost its entry
    asked = await hub.wait(Resync)
    assert "differs from the hub's" in asked.why
    await hub.ack(lost, "proven")


async def test_a_hub_that_lacks_our_log_is_not_obeyed_until_it_has_recovered(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    await serving(hub, v1, v2)
    newer = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(newer)
    await hub.ack(newer, "proven")
    heard = len(hub.heard)
    await hub.stop()
    hub.refuse, hub.epoch, hub.rev = "log_behind", 2, 1  # restored from a copy, started again
    old = entry(v1.ref, 1, epoch=1, beneath=(v2.ref,), keys=KEYS)
    hub.entries[old.key] = old
    await hub.start()
    hello = await hub.wait(Hello, after=heard)
    assert (hello.epoch, hello.rev) == (1, 2)
    await hub.send_table(full=True)
    await hub.send_table([entry(v1.ref, 7, epoch=2, keys=KEYS)], prev_rev=0)
    table = await hub.ask_table()
    assert [e.fence for e in table.entries] == [(1, 2)]
    assert await node.tokens("hello") == v2.tokens("hello")
    assert "log_behind" in node.log_text()

    hub.refuse, hub.epoch, hub.rev = None, 3, 4
    recovered = entry(v2.ref, 3, epoch=3, beneath=(v1.ref,), keys=KEYS).model_copy(update={"refuse_after_s": 0.01})
    hub.entries[recovered.key] = recovered
    await hub.send_table(full=True)
    await hub.ack(recovered, "proven")
    assert await node.tokens("hello") == v2.tokens("hello"), "its router knows of a hub again"


async def test_another_nodes_token_is_refused_with_the_exact_reason_in_the_log(stopped: Node, hub: FakeHub) -> None:
    stopped.token.write_text("token-of-gpu-99")
    stopped.start()
    line = (
        "the hub refused this agent: wrong_node: this token belongs to another node; the token is of gpu-99; "
        "give each node a token of its own"
    )
    await until(lambda: line in stopped.log_text(), "the reason in the log")
    assert not hub.of(Hello)
    assert hub.token not in stopped.log_text()
    assert "token-of-gpu-99" not in stopped.log_text()
    assert stopped.log_text().count(line) == 1, "said once, not at every attempt"


async def test_an_order_of_an_older_epoch_is_dropped(node: Node, hub: FakeHub, v1: Adapter, v2: Adapter) -> None:
    hub.epoch = 5
    await serving(hub, v1, v2, epoch=5)
    await hub.send(NodeOrder(epoch=4, drained=True))
    marker = entry(v1.ref, 1, epoch=5, beneath=(v2.ref,), keys=KEYS, route="staging")
    await hub.desire(marker)  # what comes after it in the same stream was handled after it
    await hub.ack(marker, "flipped")
    assert "dropped: a node_order of epoch 4" in node.log_text()
