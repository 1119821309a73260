"""What the hub says of a release on another base: how near it is on each replica, and who is left behind by a move."""

from __future__ import annotations

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, OTHER_BASE, Deck, key
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.schemas.moves import PromoteRequest
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck.schemas.state import PreviewAction, Readiness, ReplicaReadiness

PROMOTE = "tenants/acme/routes/production/promote"


async def reported(deck: Deck, agent: LinkedAgent, **replica: object) -> None:
    """The agent reports, with this changed; returns once the hub has it."""
    agent.replica = agent.replica.model_copy(update=replica)
    await agent.report()
    node = deck.hub.fleet.nodes[agent.name]
    await until(
        lambda: (node.replicas, node.stored) == ((agent.replica,), frozenset(agent.stored)), f"{agent.name} reported"
    )


async def prior(deck: Deck) -> str:
    """The digest of the adapter that R would bring back."""
    target = (await deck.row()).preview.target
    assert target is not None
    assert target.adapter is not None
    return target.adapter


async def on_two(deck: Deck, join: Join) -> LinkedAgent:
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
    assert (await deck.row()).preview.answer_s is None  # nothing was answered there in the last minute
    await agent.report(agent.served(finished=20), router_boot="r2")
    await agent.report(agent.served(finished=40).model_copy(update={"ttft_ms": (0, 0, 0, 19, 1)}), router_boot="r2")
    await until(lambda: deck.hub.counts.first_token_s("n1") is not None, "the first tokens are counted")
    assert (await deck.row()).preview.answer_s == 43.25 + 0.05  # 95 % began within 50 ms


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


async def test_a_replica_that_has_not_loaded_the_prior_yet_waits_and_says_which_policy_holds(
    deck: Deck, join: Join
) -> None:
    await on_two(deck, join)
    slow = await join("n2")
    slow.flips = False
    await deck.rollback(wait="committed")
    await until(lambda: slow.entry.current and slow.entry.current.label == "v1", "n2 was told")
    says = "gap policy refuse: nothing answers"
    await slow.ack(slow.entry, AckState.WAITING, code="not_ready", detail=says)
    await until(lambda: "n2" in deck.hub.replicas.acks(("acme", "production")), "n2 has answered")
    row = await deck.row()
    (waiting,) = (replica for replica in row.replicas if replica.node == "n2")
    assert (waiting.state, waiting.code, waiting.detail) == (AckState.WAITING, "not_ready", says)
    assert (row.flipped, row.placed, row.settled) == (1, 2, False)
    await slow.ack(slow.entry, AckState.FLIPPED)
    await slow.ack(slow.entry, AckState.PROVEN)
    await deck.settled()
    row = await deck.row()
    assert (row.flipped, row.proven, row.placed, row.settled) == (2, 2, 2, True)


async def test_replicas_that_a_move_to_another_base_leaves_behind_count_as_not_flipped(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, other = await deck.release(seed=1), await deck.release(seed=2, base=OTHER_BASE)
    old = await join("n1", base=BASE.digest)
    await join("n2", base=OTHER_BASE.digest)
    await deck.promote(one)
    row = await deck.row()
    assert ([r.replica for r in row.replicas], row.flipped, row.placed) == (["n1"], 1, 1)

    await deck.promote(other, wait="flipped", timeout=0.3, override=True, reason="n1 follows")
    assert (await deck.row()).last_event.payload == {"overridden": ["left_behind"]}  # type: ignore[union-attr]
    await until(lambda: ("acme/production", *old.entry.fence) in old.fences, "n1 was told")
    await until(lambda: len(deck.hub.replicas.placed(("acme", "production"))) == 2, "n1 said that it stays behind")
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


async def test_a_replica_that_has_said_nothing_yet_of_a_move_to_another_base_counts_as_not_flipped(
    deck: Deck, join: Join
) -> None:
    """What it served last is all that is known of it: nothing may be attested meanwhile."""
    await deck.tenant()
    one, other = await deck.release(seed=1), await deck.release(seed=2, base=OTHER_BASE)
    old = await join("n1", base=BASE.digest)
    await join("n2", base=OTHER_BASE.digest)
    await deck.promote(one)
    old.acknowledges = False
    await deck.promote(other, wait="flipped", timeout=0.3, override=True, reason="n1 follows")

    await until(lambda: deck.hub.replicas.progress(("acme", "production")).proven == 1, "n2 has proven it")
    row = await deck.row()
    assert (row.flipped, row.placed, row.settled, row.attested) == (1, 2, False, None)
    old.acknowledges = True
    await old.acknowledge(old.entry)
    await until(lambda: deck.hub.replicas.acks(("acme", "production")).get("n1"), "n1 says that it stays behind")
    assert (await deck.row()).placed == 2


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


async def promotion(deck: Deck, release: str, **more: object) -> dict[str, object]:
    pointer = deck.hub.log.state.route("acme", "production")[2]
    body = PromoteRequest(
        release=release,
        expected_generation=pointer.generation,
        idempotency_key=key(),
        **more,  # type: ignore[arg-type]
    )
    return body.model_dump(mode="json")


async def test_a_promote_that_would_leave_nodes_behind_is_refused_with_their_names(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, other = await deck.release(seed=1), await deck.release(seed=2, base=OTHER_BASE)
    await join("n1", base=BASE.digest)
    await join("n2", base=OTHER_BASE.digest)
    await deck.promote(one)
    problem = await deck.refused(409, "left_behind", "POST", PROMOTE, await promotion(deck, other))
    assert (problem.detail, problem.context["nodes"]) == ("n1", ["n1"])


async def test_a_promote_that_memory_forbids_is_refused_unless_overridden_and_then_swaps(
    deck: Deck, join: Join
) -> None:
    """One node with room for one engine: the base that is live runs, the candidate's is stopped."""
    await deck.tenant()
    one, other = await deck.release(seed=1), await deck.release(seed=2, base=OTHER_BASE)
    agent = await join("n1")
    await agent.leave()
    live = agent.replica.model_copy(update={"replica": "n1.a", "memory_gb": 60.0, "always": False})
    idle = live.model_copy(update={"replica": "n1.b", "base": OTHER_BASE.digest, "state": EngineState.STOPPED})
    agent.replica, agent.memory_gb = live, 80.0
    agent.others = (idle,)
    await agent.join()
    await deck.promote(one)
    problem = await deck.refused(409, "no_memory", "POST", PROMOTE, await promotion(deck, other))
    assert problem.detail == "n1: 120 of 80 GB"

    agent.prepares = "hold"
    body = await promotion(deck, other, override=True, reason="the maintenance window is open")
    await deck.ok("POST", f"{PROMOTE}?wait=committed&timeout=0.05", body)
    (job,) = (job for job in agent.jobs.values() if job.release is not None and job.release.id == other)
    assert job.swap
    assert deck.hub.tables.entries["acme", "production"].preparing is not None

    # With room for both nothing is asked for, and nothing is swapped.
    agent.memory_gb = 120.0
    await agent.leave()
    await agent.join()
    assert not agent.jobs[job.id].swap


async def test_an_entry_says_what_its_last_move_left_and_when(deck: Deck, join: Join) -> None:
    await on_two(deck, join)
    pointer = deck.hub.log.state.pointers["acme", "production"]
    entry = deck.hub.tables.entries["acme", "production"]
    assert entry.left is not None
    assert (entry.left.label, entry.moved_ms) == ("v1", pointer.moved_ms)
    await deck.rollback()
    entry = deck.hub.tables.entries["acme", "production"]
    assert entry.left is not None
    assert (entry.left.label, entry.current.label if entry.current else None) == ("v2", "v1")


async def test_merged_weights_are_registered_once_and_only_of_an_adapter_on_weights_that_are_known(
    deck: Deck,
) -> None:
    await deck.tenant()
    adapter = await deck.release(seed=1)
    body = {"tenant": "acme", "adapter": adapter, "merged": OTHER_BASE.digest}
    await deck.refused(404, "unknown_base", "POST", "releases", body)
    await deck.base(OTHER_BASE)
    made = await deck.ok("POST", "releases", body)
    assert (made["label"], made["form"], made["base_label"]) == ("v1m", "merged", "B2")
    assert await deck.ok("POST", "releases", body) == made
    await deck.refused(404, "unknown_adapter", "POST", "releases", {**body, "adapter": made["id"]})
    await deck.refused(409, "wrong_base", "POST", "releases", {**body, "merged": BASE.digest})
    await deck.refused(404, "unknown_release", "POST", "releases", {**body, "adapter": "e" * 64})
    assert len(deck.hub.catalogue.releases) == 2
