"""What the hub says of a release on another base: how near it is on each replica, and who is left behind by a move."""

from __future__ import annotations

from tests.integration.hub.conftest import Join
from tests.integration.hub.deck import BASE, OTHER_BASE, Deck, FakeAgent, until

from loradeck.schemas.link import AckState, EngineState
from loradeck.schemas.state import PreviewAction, Readiness, ReplicaReadiness


async def reported(deck: Deck, agent: FakeAgent, **replica: object) -> None:
    """The agent reports, with this changed; returns once the hub has it."""
    agent.replica = agent.replica.model_copy(update=replica)
    await agent.report()
    node = deck.hub.fleet.nodes[agent.node]
    await until(
        lambda: (node.replicas, node.stored) == ((agent.replica,), frozenset(agent.stored)), f"{agent.node} reported"
    )


async def prior(deck: Deck) -> str:
    """The digest of the adapter that R would bring back."""
    target = (await deck.row()).preview.target
    assert target is not None
    assert target.adapter is not None
    return target.adapter


async def on_two(deck: Deck, join: Join) -> FakeAgent:
    """acme on v2 with v1 under it, on one node."""
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    return agent


async def test_a_target_is_resident_warm_cached_or_absent_by_what_its_node_says(deck: Deck, join: Join) -> None:
    agent = await on_two(deck, join)
    loaded = agent.replica.loaded

    async def readiness() -> Readiness:
        return (await deck.row()).preview.readiness

    await reported(deck, agent)
    assert await readiness() is Readiness.RESIDENT
    await reported(deck, agent, loaded=loaded[1:])
    assert await readiness() is Readiness.ABSENT
    agent.stored = (await prior(deck),)
    await reported(deck, agent)
    assert await readiness() is Readiness.WARM
    for state in (EngineState.STARTING, EngineState.DOWN, EngineState.STOPPED):
        await reported(deck, agent, state=state, loaded=())
        assert await readiness() is Readiness.CACHED
    agent.stored = ()
    await reported(deck, agent)
    assert await readiness() is Readiness.ABSENT


async def test_how_long_it_would_take_is_the_sum_of_what_was_measured_there(deck: Deck, join: Join) -> None:
    agent = await on_two(deck, join)
    agent.stored = (await prior(deck),)

    async def wait() -> float | None:
        return (await deck.row()).preview.wait_s

    await reported(deck, agent, loaded=())
    assert await wait() is None
    await reported(deck, agent, load_s=0.25)
    assert await wait() == 0.25
    await reported(deck, agent, state=EngineState.DOWN)
    assert await wait() is None  # a start was never measured: nothing is invented
    await reported(deck, agent, start_s=41.0)
    assert await wait() == 41.25
    agent.stored = ()
    await reported(deck, agent)
    assert await wait() is None
    await reported(deck, agent, fetch_s=2.0)
    assert await wait() == 43.25


async def test_the_slowest_replica_counts_and_each_that_lacks_the_target_is_named(deck: Deck, join: Join) -> None:
    first = await on_two(deck, join)
    held = await prior(deck)
    second, third = await join("n2"), await join("n3")
    target = first.replica.loaded[0]
    first.stored = second.stored = (held,)
    await reported(deck, first, loaded=(target,))
    await reported(deck, second, loaded=(), load_s=0.5)
    await reported(deck, third, loaded=(), load_s=0.5, fetch_s=1.0)
    preview = (await deck.row()).preview
    assert (preview.readiness, preview.ready, preview.placed) == (Readiness.ABSENT, 1, 3)
    assert preview.wait_s == 1.5
    assert preview.behind == (
        ReplicaReadiness(node="n3", replica="n3", readiness=Readiness.ABSENT, seconds=1.5),
        ReplicaReadiness(node="n2", replica="n2", readiness=Readiness.WARM, seconds=0.5),
    )


async def test_a_node_that_is_not_heard_from_is_unknown_and_counts_as_not_ready(deck: Deck, join: Join) -> None:
    first = await on_two(deck, join)
    second = await join("n2")
    await reported(deck, first)
    await reported(deck, second, loaded=first.replica.loaded)
    await second.leave()
    node = deck.hub.fleet.nodes["n2"]
    await until(lambda: not node.linked, "n2 is unlinked")
    preview = (await deck.row()).preview
    assert (preview.readiness, preview.ready, preview.placed) == (Readiness.RESIDENT, 1, 2)
    assert preview.behind == (ReplicaReadiness(node="n2", replica="n2", readiness=Readiness.UNKNOWN),)


async def test_replicas_that_a_move_to_another_base_leaves_behind_count_as_not_flipped(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, other = await deck.release(seed=1), await deck.release(seed=2, base=OTHER_BASE)
    old = await join("n1", base=BASE.digest)
    await join("n2", base=OTHER_BASE.digest)
    await deck.promote(one)
    row = await deck.row()
    assert ([r.replica for r in row.replicas], row.flipped, row.placed) == (["n1"], 1, 1)

    await deck.promote(other, wait="flipped", timeout=0.3)
    await until(lambda: ("acme/production", *old.entry.fence) in old.fences, "n1 was told")
    await until(lambda: len(deck.hub.observer.placed(("acme", "production"))) == 2, "n1 said that it stays behind")
    row = await deck.row()
    assert [(r.replica, r.state, r.code) for r in row.replicas] == [
        ("n2", AckState.PROVEN, None),
        ("n1", AckState.WAITING, "no_engine"),
    ]
    assert (row.flipped, row.proven, row.placed, row.settled) == (1, 1, 2, False)
    assert row.replicas[1].detail == "gap policy left: v1 answers"
    assert "UNPRVN" in row.flags
    assert row.attested is None  # a reachable replica may still answer with the left release

    # An engine of the base on that node, and it is that one which counts.
    await reported(deck, old, base=OTHER_BASE.digest)
    assert [r.replica for r in (await deck.row()).replicas] == ["n1", "n2"]


async def test_the_preview_names_nodes_that_a_rollback_to_another_base_would_leave_behind(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    one, other = await deck.release(seed=1), await deck.release(seed=2, base=OTHER_BASE)
    here = await join("n1", base=BASE.digest)
    await deck.promote(one)
    # The node changes over to the other base: what R goes back to has no engine here any more.
    await here.leave()
    here.replica = here.replica.model_copy(update={"base": OTHER_BASE.digest, "boot": "b2", "loaded": ()})
    await here.join()
    await deck.promote(other)
    await join("n2", base=BASE.digest)
    preview = (await deck.row()).preview
    assert preview.action is PreviewAction.ROLLBACK
    assert preview.target is not None
    assert (preview.target.id, preview.target.base_label) == (one, "B1")
    assert (preview.readiness, preview.ready, preview.placed) == (Readiness.ABSENT, 0, 2)
    assert preview.behind == (
        ReplicaReadiness(node="n1", replica="n1", readiness=Readiness.ABSENT, engine=False),
        ReplicaReadiness(node="n2", replica="n2", readiness=Readiness.ABSENT),
    )
