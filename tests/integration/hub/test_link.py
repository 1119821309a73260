"""The link: what a node is told, what it says back, gaps, restarts and nodes that are lost."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.leaping_loop import leap
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, restore, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.rules.serving.one_link import CHALLENGE_S
from loradeck.schemas.link import Bookmark, Challenge, Desired, DownMessage, NodeOrder, Welcome
from loradeck.schemas.log import GENESIS
from loradeck.schemas.protocol import PROTOCOL
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck.schemas.table import table_digest
from loradeck.schemas.telemetry import Gpu

ROUTE = "tenants/acme/routes/production"
ACME = ("acme", "production")


async def test_a_hello_is_answered_by_welcome_the_whole_table_and_the_nodes_order(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    await until(lambda: any(isinstance(m, NodeOrder) for m in agent.received), "the order came")
    welcome, desired, order = agent.received[:3]
    assert isinstance(welcome, Welcome)
    assert (welcome.rev, welcome.hash, welcome.refuse) == (deck.hub.log.state.rev, deck.hub.log.state.hash, None)
    assert isinstance(desired, Desired)
    assert desired.full
    assert desired.table == table_digest(desired.entries)
    assert order == NodeOrder(epoch=deck.hub.log.state.epoch)


async def test_directives_chain_by_prev_rev_and_their_digest_is_that_of_the_table(deck: Deck, join: Join) -> None:
    await deck.tenant("acme")
    await deck.tenant("bolt", "staging")
    agent = await join("n1")
    await deck.promote(await deck.release())
    await deck.ok("POST", "tenants/bolt/suspend")
    await until(lambda: agent.rev == deck.hub.log.state.rev, "the node has everything")
    directives = [m for m in agent.received if isinstance(m, Desired)]
    assert [m.full for m in directives] == [True] + [False] * (len(directives) - 1)
    for earlier, later in pairwise(directives):
        assert later.prev_rev == earlier.rev
    assert directives[-1].table == table_digest(agent.entries.values())
    assert agent.entries["bolt", "staging"].suspended
    assert not agent.entry.suspended


async def test_a_gap_makes_the_node_ask_and_the_hub_send_everything(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    agent.rev -= 1  # as if a message had been lost
    seen = len(agent.received)
    await deck.ok("POST", "tenants/acme/suspend")
    await until(lambda: agent.rev == deck.hub.log.state.rev, "the node has caught up")
    directives = [m for m in agent.received[seen:] if isinstance(m, Desired)]
    assert [m.full for m in directives] == [False, True]
    assert agent.entry.suspended


async def test_a_table_that_differs_is_sent_again_as_a_whole(deck: Deck, join: Join) -> None:
    await deck.tenant("acme")
    await deck.tenant("bolt")
    agent = await join("n1")
    del agent.entries["bolt", "production"]  # as if the node had lost a line of its table
    seen = len(agent.received)
    await deck.ok("POST", "tenants/acme/suspend")
    await until(lambda: ("bolt", "production") in agent.entries, "the node has all entries again")
    assert [m.full for m in agent.received[seen:] if isinstance(m, Desired)] == [False, True]


async def test_a_node_is_told_only_of_what_is_placed_on_it_and_withdrawn_entries_are_tombstones(
    deck: Deck, join: Join
) -> None:
    await deck.tenant("acme", placement={"site": "eu"})
    await deck.tenant("bolt", placement={"site": "us"})
    eu, us = await join("n1", site="eu"), await join("n2", site="us")
    assert list(eu.entries) == [("acme", "production")]
    assert list(us.entries) == [("bolt", "production")]
    await deck.promote(await deck.release())
    row = await deck.row()
    assert (row.placed, [r.node for r in row.replicas]) == (1, ["n1"])
    await deck.tenant("acme", placement={"site": "us"})
    await until(lambda: eu.entry.current is None, "n1 got a tombstone")
    await until(lambda: ("acme", "production") in us.entries, "n2 got the entry")
    await until(lambda: eu.rev == us.rev == deck.hub.log.state.rev, "both are at the newest rev")
    await until(lambda: deck.hub.replicas.progress(ACME).flipped == 1, "n2 serves it")


async def test_a_node_gets_a_tombstone_too_where_a_placement_is_the_first_to_name_its_label(
    deck: Deck, join: Join
) -> None:
    await deck.tenant("acme")
    agent = await join("n1", site="eu")
    await deck.promote(await deck.release())
    seen = len(agent.received)
    await deck.tenant("acme", placement={"site": "us"})
    told = await until(
        lambda: [m for m in agent.received[seen:] if isinstance(m, Desired) and m.rev == deck.hub.log.state.rev],
        "n1 is at the newest rev",
    )
    assert [(entry.key, entry.current, m.full) for m in told for entry in m.entries] == [(ACME, None, False)]


async def test_a_node_that_comes_back_with_other_labels_gets_tombstones_for_what_it_held(
    deck: Deck, join: Join
) -> None:
    await deck.tenant("acme", placement={"site": "eu"})
    agent = await join("n1", site="eu")
    await deck.promote(await deck.release())
    await agent.relabelled(site="us")
    await until(lambda: agent.entry.current is None, "the node was told to serve it no longer")
    assert (await deck.row()).placed == 0


async def test_a_node_that_an_event_does_not_concern_still_follows_the_log(deck: Deck, join: Join) -> None:
    await deck.tenant("acme", placement={"site": "eu"})
    other = await join("n2", site="us")
    await deck.ok("POST", "tenants/acme/suspend")
    await until(lambda: other.rev == deck.hub.log.state.rev, "its rev went on with a heartbeat")
    last = [m for m in other.received if isinstance(m, Desired)][-1]
    assert last.entries == ()
    bookmark = [m for m in other.received if isinstance(m, Bookmark)][-1]
    assert (bookmark.rev, bookmark.hash) == (other.rev, other.hash)


async def test_an_ack_of_an_older_generation_counts_for_nothing(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release(seed=1))
    old = agent.entry
    agent.flips = False
    await deck.promote(await deck.release(seed=2), wait="committed")
    await until(lambda: agent.entry.generation == 2, "the node has the new entry")
    await agent.ack(old, AckState.FLIPPED)
    await agent.ack(old, AckState.PROVEN)
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].replicas[0].loaded, "the report came after the acks")
    row = await deck.row()
    assert (row.flipped, row.proven) == (0, 0)


async def test_a_late_ack_of_the_generation_before_takes_no_proof_back(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release(seed=1))
    old = agent.entry
    await deck.promote(await deck.release(seed=2))
    await agent.ack(old, AckState.WAITING)
    await agent.report()
    await until(lambda: len(deck.hub.fleet.nodes["n1"].replicas[0].loaded) == 2, "the report came after the ack")
    row = await deck.row()
    assert (row.flipped, row.proven, row.replicas[0].state) == (1, 1, AckState.PROVEN)


async def test_a_replica_that_flipped_to_another_release_has_not_flipped(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    agent.flips = False
    await deck.promote(await deck.release(), wait="committed")
    await until(lambda: agent.entry.current, "the node has the entry")
    await agent.ack(agent.entry, AckState.FLIPPED, release="e" * 64)
    await until(lambda: deck.hub.replicas.progress(ACME).failed, "the ack is in")
    row = await deck.row()
    assert (row.flipped, row.replicas[0].code) == (0, "wrong_release")


async def test_a_failed_proof_keeps_the_flip_and_shows_its_code(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    agent.proves = False
    await deck.promote(await deck.release(), wait="flipped")
    await agent.ack(agent.entry, AckState.FAILED, code="serves_base", detail="tokens are the base's")
    await until(lambda: deck.hub.replicas.progress(ACME).failed, "the ack is in")
    row = await deck.row()
    assert (row.flipped, row.proven, row.attested) == (1, 0, None)
    assert (row.replicas[0].code, row.replicas[0].detail) == ("serves_base", "tokens are the base's")
    assert row.settled
    await agent.ack(agent.entry, AckState.PROVEN)
    await deck.settled()
    assert (await deck.row()).attested == (1, 1)


async def test_a_flip_that_is_said_again_takes_no_proof_back(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release())
    await agent.ack(agent.entry, AckState.FLIPPED)
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].replicas[0].loaded, "the report came after the ack")
    assert (await deck.row()).proven == 1
    await agent.ack(agent.entry, AckState.WAITING, code="engine_restarted")
    await until(lambda: deck.hub.replicas.progress(ACME).flipped == 0, "waiting takes the flip back")
    assert (await deck.row()).proven == 0


async def test_what_was_proven_on_an_engine_that_died_while_its_node_was_away_is_taken_back(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release())
    assert (await deck.row()).proven == 1
    await agent.leave()
    agent.flips = agent.proves = False
    agent.replica = agent.replica.model_copy(update={"boot": "b2"})
    await agent.join()
    row = await deck.row()
    assert (row.flipped, row.proven, row.replicas[0].code) == (0, 0, "engine_down")


async def test_the_time_of_a_flip_is_kept_when_an_agent_comes_back_and_sends_it_again(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release())
    (before,) = (await deck.row()).replicas
    await agent.leave()
    agent.acknowledges = False
    agent.replica = agent.replica.model_copy(update={"state": EngineState.STARTING})  # not looked at yet
    await agent.join()
    (meanwhile,) = (await deck.row()).replicas
    assert (meanwhile.state, meanwhile.flipped_ms) == (AckState.WAITING, None)
    await agent.ack(agent.entry, AckState.FLIPPED, mono_ns=7)
    await until(lambda: deck.hub.replicas.progress(ACME).flipped, "the flip was counted again")
    (now,) = (await deck.row()).replicas
    assert before.flipped_ms is not None
    assert (now.flipped_ms, now.flipped_mono_ns) == (before.flipped_ms, before.flipped_mono_ns)


async def test_the_time_of_a_proof_is_kept_when_it_is_made_anew(deck: Deck, join: Join) -> None:
    """An engine that comes back is proven again, and so is one whose proof had failed: the move's times stay."""
    await deck.tenant()
    agent = await join("n1")
    result = await deck.promote(await deck.release())
    (before,) = (await deck.row()).replicas
    for _ in range(2):
        await agent.ack(agent.entry, AckState.WAITING, code="engine_down")
        await until(lambda: not deck.hub.replicas.progress(ACME).flipped, "the flip was taken back")
        (meanwhile,) = (await deck.row()).replicas
        assert meanwhile.proven_ms is None
        for state in (AckState.FLIPPED, AckState.FAILED, AckState.PROVEN):
            await agent.ack(agent.entry, state)
        await until(lambda: deck.hub.replicas.progress(ACME).proven, "the proof was made anew")
    (now,) = (await deck.row()).replicas
    assert before.proven_ms is not None
    assert (now.flipped_ms, now.proven_ms) == (before.flipped_ms, before.proven_ms)
    again = deck.hub.progress.reached([(ACME, (agent.entry.epoch, agent.entry.generation))])
    assert (result.reached, *again[1:]) == (again[0], result.flipped_ms, result.proven_ms)


async def test_an_ack_of_a_replica_that_its_node_no_longer_has_is_dropped_and_the_link_stays(
    deck: Deck, join: Join
) -> None:
    """A node with a second engine names its replicas anew; its router may have answered for the one it had."""
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release())
    await agent.leave()
    agent.acknowledges = False
    agent.replica = agent.replica.model_copy(update={"replica": "n1.e0"})
    agent.others = (agent.replica.model_copy(update={"replica": "n1.e1"}),)
    await agent.join()
    for state in (AckState.FLIPPED, AckState.PROVEN):
        await agent.ack(agent.entry, state, replica="n1")
    await agent.ack(agent.entry, AckState.FLIPPED)
    await until(lambda: agent.closed or deck.hub.replicas.progress(ACME).flipped, "the newer ack was counted")
    assert agent.closed is None
    row = await deck.row()
    assert {r.replica: r.state for r in row.replicas} == {"n1.e0": AckState.FLIPPED, "n1.e1": None}
    assert (row.flipped, row.proven, row.placed) == (1, 0, 2)


@pytest.mark.parametrize("same_boot", [False, True])
async def test_the_newer_link_of_a_node_replaces_an_older_one_that_does_not_answer(
    deck: Deck, join: Join, same_boot: bool
) -> None:
    first = await join("n1")
    first.answers_challenges = False
    second, ended, take = LinkedAgent(deck, "n1"), list[bool](), LinkedAgent.take
    if same_boot:
        second.boot = first.boot

    async def noted(message: DownMessage) -> None:
        if isinstance(message, Welcome):
            ended.append(first.closed is not None)
        await take(second, message)

    second.take = noted  # type: ignore[method-assign]
    joining = asyncio.create_task(second.join())
    await until(lambda: any(isinstance(m, Challenge) for m in first.received), "the older one is asked")
    if same_boot:
        await joining
        assert ended == [False], "an agent that comes back does not wait"
    assert (first.closed, joining.done()) == (None, same_boot)
    fleet, clock = deck.hub.fleet, deck.hub.fleet.clock
    fleet.clock = lambda: clock() + CHALLENGE_S
    leap(CHALLENGE_S)
    await joining
    await until(lambda: first.closed, "the older link ended")
    assert first.closed == (4409, "replaced")
    assert deck.hub.fleet.nodes["n1"].linked
    await second.leave()
    await until(lambda: not deck.hub.fleet.nodes["n1"].linked, "the node is unlinked")


async def test_a_hub_whose_lease_was_taken_lets_its_nodes_go_and_greets_none(deck: Deck, join: Join) -> None:
    def taken(store: Any) -> None:
        store.database._ready().execute("UPDATE head SET epoch = epoch + 1, holder = 'another'")

    agent, token = await join("n1"), await deck.token("agent", "n2")
    deck.hub.store.now(taken)  # and nobody moves anything here
    await until(lambda: agent.closed, "the link ended")
    assert agent.closed == (4503, "not_active")
    assert (await LinkedAgent(deck, "n2").join(token)).closed == (4400, "not_active")


@pytest.mark.parametrize(
    "message", ["{}", '{"type":"hello"}', "not json", '{"type":"nothing"}', '{"type":"ack","tenant":"A B"}']
)
async def test_a_message_that_does_not_fit_ends_the_link_and_changes_nothing(
    deck: Deck, join: Join, message: str
) -> None:
    await deck.tenant()
    agent = await join("n1")
    before = deck.fingerprint()
    await agent.send(message)
    await until(lambda: agent.closed, "the link ended")
    assert agent.closed == (4400, "invalid_request")
    assert deck.fingerprint() == before


async def test_a_node_is_lost_one_ttl_after_its_last_word_and_its_replica_is_placed_and_not_flipped(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deck.tenant()
    agent = await join("n1")
    await join("n2")
    await deck.promote(await deck.release())
    await agent.leave()
    await until(lambda: not deck.hub.fleet.nodes["n1"].linked, "n1 has left")
    assert not deck.hub.fleet.nodes["n1"].lost
    clock, ahead = deck.hub.fleet.clock, 0.0
    monkeypatch.setattr(deck.hub.fleet, "clock", lambda: clock() + ahead)
    deck.hub.fleet.heard(deck.hub.fleet.nodes["n2"])
    ahead = 5.0
    assert deck.hub.fleet.newly_lost() == []
    deck.hub.fleet.heard(deck.hub.fleet.nodes["n2"])
    ahead = 6.5
    assert [n.name for n in deck.hub.fleet.newly_lost()] == ["n1"]
    row = await deck.row()
    assert (row.placed, row.flipped) == (2, 1)
    assert {r.node: r.linked for r in row.replicas} == {"n1": False, "n2": True}


async def test_flip_and_proof_of_a_lost_node_are_not_counted_until_it_is_heard_again(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    await join("n2")
    await deck.promote(await deck.release())
    await deck.settled()
    assert (await deck.row()).flags == ("NOPRIOR",)
    await agent.leave()
    await until(lambda: not deck.hub.fleet.nodes["n1"].linked, "n1 has left")
    deck.hub.fleet.lose(deck.hub.fleet.nodes["n1"])
    row = await deck.row()
    assert (row.proven, row.flipped, row.placed, row.attested) == (1, 1, 2, (2, 2))
    assert "UNPRVN" in row.flags
    deck.hub.fleet.heard(deck.hub.fleet.nodes["n1"])
    row = await deck.row()
    assert (row.proven, row.flags) == (2, ("NOPRIOR",))


async def test_a_link_that_says_nothing_for_a_ttl_is_closed_though_the_connection_stands(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, alive = await join("n1"), await join("n2")
    clock = deck.hub.fleet.clock
    monkeypatch.setattr(deck.hub.fleet, "clock", lambda: clock() + 10.5)
    deck.hub.fleet.heard(deck.hub.fleet.nodes["n2"])
    deck.hub.links.beat_parts()
    await until(lambda: silent.closed, "the silent link ended")
    assert silent.closed == (4408, "silent")
    assert alive.closed is None
    assert not deck.hub.fleet.nodes["n1"].linked


async def test_a_move_that_a_lost_node_cannot_hear_is_never_counted_there(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await join("n2")
    await deck.promote(one)
    await deck.promote(two)
    await agent.leave()
    await until(lambda: not deck.hub.fleet.nodes["n1"].linked, "n1 has left")
    deck.hub.fleet.lose(deck.hub.fleet.nodes["n1"])
    result = await deck.rollback(wait="flipped")
    assert result.reached == "committed"
    row = await deck.row()
    assert (row.flipped, row.placed) == (1, 2)
    await deck.settled()  # every reachable replica proved it
    assert (await deck.row()).attested == (1, 2)


async def test_a_restart_raises_the_epoch_and_nodes_rejoin_without_being_lost_or_told_to_flip(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        await deck.promote(await deck.release())
        token, epoch, entry = await deck.token("agent", "n1"), deck.hub.log.state.epoch, agent.entry
        await agent.leave()
    async with running(data) as deck:
        assert deck.hub.log.state.epoch == epoch + 1
        assert deck.hub.fleet.newly_lost() == []
        row = await deck.row()
        assert (row.placed, row.flipped) == (1, 0)  # known from before, and not heard from yet
        assert row.attested == (1, 1)
        agent.deck = deck
        await agent.join(token)
        await until(lambda: deck.hub.replicas.progress(ACME).proven == 1, "the node said again where it is")
        assert agent.entry == entry
        assert not deck.hub.fleet.nodes["n1"].lost
        assert agent.epoch == epoch + 1
        await agent.leave()


async def test_a_prepare_that_a_crash_interrupts_is_failed_and_has_moved_nothing(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        agent = await LinkedAgent(deck, "n1").join()
        agent.prepares = "hold"
        result = await deck.promote(await deck.release(), wait="committed", timeout=0.05)
        token = await deck.token("agent", "n1")
        as_killed = data / "as-killed.db"
        deck.hub.store.now(lambda s: s.backup(str(as_killed)))
        await agent.leave()
    restore(data, as_killed)
    async with running(data) as deck:
        job = await deck.ok("GET", f"jobs/{result.pending}")
        assert (job["state"], job["code"]) == ("failed", "hub_restarted")
        assert deck.hub.log.state.pointers[ACME].generation == 0
        row = await deck.row()
        assert row.preview.prepare is None
        assert "FAILED" in row.flags
        agent.deck, agent.running_jobs = deck, ((result.pending or "", 1),)
        await agent.join(token)
        await until(lambda: result.pending not in agent.jobs, "the node was told to stop it")
        await agent.leave()


async def test_drain_and_cordon_reach_the_node_and_outlive_a_restart(data: Path) -> None:
    async with running(data) as deck:
        agent = await LinkedAgent(deck, "n1").join()
        assert (await deck.ok("POST", "nodes/n1/drain"))["drained"]
        await until(lambda: _order(agent) == (True, True), "the order came")
        token = await deck.token("agent", "n1")
        await agent.leave()
    async with running(data) as deck:
        (node,) = await deck.ok("GET", "nodes")
        assert (node["node"], node["cordoned"], node["drained"], node["linked"]) == ("n1", True, True, False)
        agent.deck = deck
        agent.received.clear()
        await agent.join(token)
        await until(lambda: _order(agent) == (True, True), "it is told again")
        assert not (await deck.ok("POST", "nodes/n1/uncordon"))["drained"]
        await agent.leave()


def _order(agent: LinkedAgent) -> tuple[bool, bool] | None:
    """The newest order of a node: cordoned, drained."""
    orders = [m for m in agent.received if isinstance(m, NodeOrder)]
    return (orders[-1].cordoned, orders[-1].drained) if orders else None


async def test_a_gpu_that_fails_cordons_its_node_until_a_person_has_seen_it_and_again_for_another(data: Path) -> None:
    fallen, worn = (Gpu(index=n, uuid=f"GPU-{n}", name="H100") for n in (0, 1))
    fallen, worn = fallen.model_copy(update={"xids": (13, 79)}), worn.model_copy(update={"ecc_uncorrected": 1})
    async with running(data) as deck:
        agent = await LinkedAgent(deck, "n1").join()
        agent.gpus = (fallen,)
        await agent.report()
        await until(lambda: _order(agent) == (True, False), "the order came")
        token = await deck.token("agent", "n1")
        await agent.leave()
    async with running(data) as deck:
        (node,) = await deck.ok("GET", "nodes")
        assert (node["cordoned"], node["cordoned_for"]) == (True, ["GPU-0: XID 79"])
        agent.deck = deck
        await agent.join(token)
        freed = await deck.ok("POST", "nodes/n1/uncordon")
        assert "cordoned_for" not in freed
        await agent.report()
        await agent.report()
        assert not (await deck.ok("GET", "nodes"))[0]["cordoned"], "it was seen"
        agent.gpus = (fallen, worn)
        await agent.report()
        await until(lambda: _order(agent) == (True, False), "another one fails")
        (node,) = await deck.ok("GET", "nodes")
        assert node["cordoned_for"] == ["GPU-1: uncorrected memory errors"]
        await agent.leave()


async def test_callers_keys_and_settings_reach_the_node_and_an_offboarding_leaves_a_tombstone(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release())
    made = await deck.ok("POST", "tenants/acme/keys")
    await until(lambda: agent.entry.keys, "the key's hash is in the entry")
    import hashlib

    assert agent.entry.keys == (hashlib.sha256(made["key"].encode()).hexdigest(),)
    await deck.ok("DELETE", f"tenants/acme/keys/{made['id']}")
    await until(lambda: not agent.entry.keys, "the key is withdrawn")
    await deck.refused(404, "unknown_key", "DELETE", f"tenants/acme/keys/{made['id']}")
    fence = agent.entry.fence
    await deck.tenant(gap="refuse")
    await until(lambda: agent.entry.gap == "refuse", "the setting is in the entry")
    assert agent.entry.fence == fence
    state = await deck.ok("POST", "tenants/acme/offboard", {"reason": "contract ended"})
    assert state["offboarded"]
    await until(lambda: agent.entry.current is None, "the entry is a tombstone")
    await deck.refused(409, "offboarded", "POST", "tenants/acme/offboard")
    await deck.refused(409, "exists", "POST", "tenants", {"name": "acme"})


async def test_a_node_that_comes_while_a_promote_is_prepared_takes_part_in_it(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release = await deck.release()
    first = await join("n1")
    first.prepares = "hold"
    promote = asyncio.create_task(deck.promote(release, wait="committed"))
    await until(lambda: first.jobs, "n1 prepares")
    second = await join("n2")
    await until(lambda: second.jobs, "n2 prepares too")
    assert not promote.done()
    from loradeck.schemas.executor import ExecutorEventType

    await first.say(next(iter(first.jobs.values())), ExecutorEventType.FINISHED)
    assert len((await promote).events) == 1


async def test_a_new_node_needs_nothing_but_genesis(deck: Deck) -> None:
    await deck.tenant()
    agent = LinkedAgent(deck, "n1")
    assert (agent.rev, agent.hash) == (0, GENESIS)
    await agent.join()
    assert agent.welcome is not None
    assert agent.welcome.refuse is None
    await agent.leave()


@pytest.mark.parametrize(("protocol", "code"), [(1, None), (2, None), (3, None), (4, "protocol_mismatch")])
async def test_a_node_of_a_neighbouring_version_is_welcome_and_one_further_off_is_refused(
    deck: Deck, protocol: int, code: str | None
) -> None:
    agent = LinkedAgent(deck, "n1")
    agent.protocol = protocol
    await agent.join()
    assert (agent.closed[1] if agent.closed else None) == code
    if code is None:
        assert agent.welcome is not None
        assert agent.welcome.protocol == PROTOCOL
    await agent.leave()


async def test_the_features_of_a_nodes_router_are_known_and_an_order_says_its_epoch(deck: Deck, join: Join) -> None:
    agent = LinkedAgent(deck, "n1")
    agent.features = ("candidate",)
    await agent.join()
    assert deck.hub.fleet.nodes["n1"].features == {"candidate"}
    await until(lambda: any(isinstance(m, NodeOrder) for m in agent.received), "the order came")
    (order,) = [m for m in agent.received if isinstance(m, NodeOrder)]
    assert order.epoch == deck.hub.log.state.epoch > 0
    await agent.leave()
