"""The feed: list, then watch; nothing is missed between the two, and a slow reader costs nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.fleets.linked.hub import Deck, feed, restore, running, to_the_end, watch
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.hub.api.state import RESET
from loradeck.hub.log import changes
from loradeck.hub.views import feed as feeds
from loradeck.schemas.feed import (
    FeedEvents,
    FeedJobs,
    FeedMessage,
    FeedNodes,
    FeedReset,
    FeedShow,
    FeedStatus,
    FeedTenants,
)
from loradeck.schemas.state import HubState, TenantRow


def rows(messages: list[FeedMessage]) -> list[TenantRow]:
    return [row for m in messages if isinstance(m, FeedTenants) for row in m.rows]


def events(messages: list[FeedMessage]) -> list[int]:
    return [e.rev for m in messages if isinstance(m, FeedEvents) for e in m.events]


def cursor(deck: Deck) -> str:
    return f"{deck.hub.log.state.epoch}:{deck.hub.log.state.rev}"


async def test_a_state_lists_everything_at_one_rev(deck: Deck, join: Join) -> None:
    await deck.tenant("acme")
    await deck.tenant("bolt", "staging")
    await join("n1")
    await deck.promote(await deck.release())
    state = HubState.model_validate(await deck.ok("GET", "state"))
    assert (state.status.rev, state.status.hash) == (deck.hub.log.state.rev, deck.hub.log.state.hash)
    assert [row.key for row in state.tenants] == [("acme", "production"), ("bolt", "staging")]
    assert [node.node for node in state.nodes] == ["n1"]
    assert [job.kind for job in state.jobs] == ["prepare"]
    assert [e.rev for e in state.events] == list(range(1, state.status.rev + 1))
    row = state.tenants[0]
    assert row == await deck.row() or row.pointer == (await deck.row()).pointer
    assert row.last_event is not None
    assert row.last_event.kind == "promote"


async def test_a_move_is_on_the_feed_at_once_with_its_event_row_and_acknowledgements(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    async with feed(deck, cursor(deck)) as socket:
        await watch(socket, lambda ms: any(isinstance(m, FeedStatus) for m in ms))
        result = await deck.rollback()
        messages = await watch(socket, lambda ms: any(r.proven == 1 and r.pointer.generation == 3 for r in rows(ms)))
    assert events(messages) == [result.events[0].rev]
    moved = [r for r in rows(messages) if r.pointer.generation == 3]
    assert moved[-1].live is not None
    assert moved[-1].live.id == one
    assert (moved[-1].flipped, moved[-1].proven) == (1, 1)


async def test_a_feed_resumes_from_its_cursor_with_every_event_since_and_none_twice(deck: Deck) -> None:
    await deck.tenant("acme")
    since = cursor(deck)
    await deck.tenant("bolt")
    await deck.tenant("cedar")
    want = list(range(int(since.partition(":")[2]) + 1, deck.hub.log.state.rev + 1))
    async with feed(deck, since) as socket:
        messages = await watch(socket, lambda ms: len(events(ms)) >= len(want) and rows(ms))
    assert events(messages) == want
    # Rows that changed since the cursor come again; they may be newer than what was listed.
    assert {r.tenant for r in rows(messages)} >= {"bolt", "cedar"}


async def test_nothing_is_missed_between_list_and_watch(deck: Deck) -> None:
    await deck.tenant()
    state = HubState.model_validate(await deck.ok("GET", "state"))
    await deck.ok("POST", "tenants/acme/suspend")
    async with feed(deck, f"{state.status.epoch}:{state.status.rev}") as socket:
        messages = await watch(socket, lambda ms: rows(ms))
    assert rows(messages)[0].suspended
    assert events(messages) == [state.status.rev + 1]


@pytest.mark.parametrize("since", ["", "x", "1", "0:9999", "99:1", "-1:2"])
async def test_a_cursor_of_another_log_is_told_to_list_again(deck: Deck, since: str) -> None:
    await deck.tenant()
    async with feed(deck, since) as socket:
        messages, closed = await to_the_end(socket)
    assert [type(m) for m in messages] == [FeedReset]
    assert closed == RESET


async def test_a_cursor_of_a_log_that_was_replaced_by_an_older_one_is_told_to_list_again(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant("acme")
        backup = data / "backup.db"
        deck.hub.store.now(lambda s: s.backup(str(backup)))
        await deck.tenant("bolt")
        since = cursor(deck)
    restore(data, backup)
    async with running(data) as deck:
        deck.hub.log.state.epoch += (
            1  # a restored lease counts on from the copy's epoch; moves lift it past the cursor's
        )
        await deck.tenant("cedar")
        await deck.tenant("delta")
        async with feed(deck, since) as socket:
            messages, _ = await to_the_end(socket)
    assert isinstance(messages[0], FeedReset)


async def test_a_feed_resumes_over_a_restart_of_the_hub(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant("acme")
        since = cursor(deck)
        await deck.tenant("bolt")
    async with running(data) as deck, feed(deck, since) as socket:
        messages = await watch(socket, lambda ms: events(ms) and len(rows(ms)) == 2)
        assert len(events(messages)) == 2


async def test_a_cursor_that_is_too_old_is_told_to_list_again(deck: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    await deck.tenant("acme")
    since = cursor(deck)
    await deck.tenant("bolt")
    while len(deck.hub.log.recent) > 1:
        deck.hub.log.recent.popleft()
    async with feed(deck, since) as socket:
        messages, _ = await to_the_end(socket)
    assert [type(m) for m in messages] == [FeedReset]


async def test_telemetry_comes_for_the_rows_that_are_shown_and_moves_for_all(deck: Deck, join: Join) -> None:
    for name in ("acme", "bolt"):
        await deck.tenant(name)
    agent = await join("n1")
    await deck.promote(await deck.release())
    await agent.report(agent.served(admitted=1, finished=1, checked=1, bad=0))  # what is loaded there is news once
    async with feed(deck, cursor(deck)) as socket:
        await watch(socket, lambda ms: sum(isinstance(m, FeedStatus) for m in ms) == 2)
        await socket.send(FeedShow(rows=("bolt/production",)).model_dump_json())
        await watch(socket, lambda ms: any(r.tenant == "bolt" for r in rows(ms)))
        await agent.report(agent.served(admitted=5, finished=5, checked=5, bad=2))
        seen = await watch(socket, lambda ms: sum(isinstance(m, FeedNodes) for m in ms) >= 1)
        assert not any(r.cause.live.finished == 5 for r in rows(seen))
        await socket.send(FeedShow(rows=None).model_dump_json())
        await agent.report(agent.served(admitted=9, finished=9, checked=9, bad=4))
        seen = await watch(socket, lambda ms: any(r.cause.live.finished == 9 for r in rows(ms)))
    row = rows(seen)[-1]
    assert (row.cause.live.checked, row.cause.live.bad, row.bad_n) == (9, 4, 9)
    assert row.bad_now == pytest.approx(4 / 9)


async def test_a_node_that_goes_is_told_also_to_who_shows_none_of_its_rows(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release())
    async with feed(deck, cursor(deck)) as socket:
        await socket.send(FeedShow(rows=()).model_dump_json())
        await agent.leave()
        await watch(socket, lambda ms: any(not r.replicas[0].linked for r in rows(ms)))


async def test_figures_of_nodes_come_for_those_that_are_shown_and_what_they_hold_for_all(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    agents = [await join("n1"), await join("n2")]
    await deck.promote(await deck.release())
    for agent in agents:
        await agent.report(agent.served(admitted=1, finished=1))  # what is loaded there is news once

    def named(messages: list[FeedMessage]) -> list[str]:
        return [node.node for m in messages if isinstance(m, FeedNodes) for node in m.rows]

    async with feed(deck, cursor(deck)) as socket:
        await watch(socket, lambda ms: sum(isinstance(m, FeedStatus) for m in ms) == 2)
        await socket.send(FeedShow(rows=(), nodes=("n2",)).model_dump_json())
        await watch(socket, lambda ms: "n2" in named(ms))
        for agent in agents:
            await agent.report(agent.served(admitted=5, finished=5))
        seen = await watch(socket, lambda ms: "n2" in named(ms))
        seen += await watch(socket, lambda ms: any(isinstance(m, FeedStatus) for m in ms))
        assert "n1" not in named(seen)
        await agents[0].leave()
        await watch(socket, lambda ms: "n1" in named(ms))


async def test_what_was_in_the_list_does_not_come_again_and_what_changed_since_does(deck: Deck, join: Join) -> None:
    for name in ("acme", "bolt"):
        await deck.tenant(name)
    agent = await join("n1")
    await deck.promote(await deck.release())
    changed, before = deck.hub.changes, deck.hub.changes.seq
    await agent.report(agent.served(admitted=1, finished=1))
    await until(lambda: changed.seq > before, "it was heard")
    await until(
        lambda: not (changed._soon or changed._soon_for_all or changed._nodes or changed._node_figures),
        "a tick: what that changed has been handed out",
    )
    state = HubState.model_validate(await deck.ok("GET", "state"))
    since = f"{state.status.epoch}:{state.status.rev}&seq={state.status.seq}"
    async with feed(deck, since) as socket:
        await socket.send(FeedShow(rows=(), nodes=()).model_dump_json())
        seen = await watch(socket, lambda ms: sum(isinstance(m, FeedStatus) for m in ms) == 2)
        assert rows(seen) == []
        assert not any(isinstance(m, FeedNodes) for m in seen)
    await agent.leave()  # no event of the log: its rev stays
    async with feed(deck, since) as socket:
        await watch(socket, lambda ms: any(r.replicas and not r.replicas[0].linked for r in rows(ms)))


async def test_the_hub_says_its_status_at_least_every_two_seconds(deck: Deck) -> None:
    async with feed(deck, cursor(deck)) as socket:
        messages = await watch(socket, lambda ms: sum(isinstance(m, FeedStatus) for m in ms) == 3)
    assert {m.status.hub for m in messages if isinstance(m, FeedStatus)} == {"test"}


async def test_a_job_is_on_the_feed_as_it_goes(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await join("n1")
    async with feed(deck, cursor(deck)) as socket:
        await deck.promote(await deck.release())
        messages = await watch(
            socket, lambda ms: any(j.state == "done" for m in ms if isinstance(m, FeedJobs) for j in m.rows)
        )
    states = [j.state for m in messages if isinstance(m, FeedJobs) for j in m.rows]
    assert states[0] == "running"


async def test_a_reader_that_stops_reading_is_disconnected_and_the_hub_keeps_nothing_for_it(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "SLOW_S", 0.3)
    names = [f"t{n:03}" for n in range(120)]
    for name in names:
        await deck.tenant(name, canaries=[[{"role": "user", "content": "x" * 50}]])
    async with feed(deck, cursor(deck)) as socket:
        await watch(socket, lambda ms: ms)
        socket.transport.pause_reading()
        await until(lambda: len(deck.hub.changes.subscribers) == 1, "one console")

        async def churn() -> None:
            while deck.hub.changes.subscribers:
                deck.hub.changes.now([(name, "production") for name in names])
                await asyncio.sleep(0.001)

        await asyncio.wait_for(churn(), 60)
        assert not deck.hub.changes.subscribers
        socket.transport.resume_reading()
        _, closed = await to_the_end(socket)
    assert closed in (1005, 1006, RESET)
    assert (await deck.ok("GET", "state"))["status"]["hub"] == "test"


async def test_a_reader_too_far_behind_with_the_log_is_told_to_list_again(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "OWED_EVENTS", 3)
    await deck.tenant()
    async with feed(deck, cursor(deck)) as socket:
        await watch(socket, lambda ms: ms)
        subscriber = next(iter(deck.hub.changes.subscribers))
        subscriber.owe_events(list(deck.hub.log.recent) * 3)
        messages, closed = await to_the_end(socket)
    assert isinstance(messages[-1], FeedReset)
    assert closed == RESET


async def test_the_row_of_a_tenant_that_left_is_gone_from_lists_and_feeds(deck: Deck) -> None:
    await deck.tenant("acme")
    await deck.tenant("bolt")
    async with feed(deck, cursor(deck)) as socket:
        await deck.ok("POST", "tenants/acme/offboard")
        messages = await watch(socket, lambda ms: any(m.gone for m in ms if isinstance(m, FeedTenants)))
    assert [m.gone for m in messages if isinstance(m, FeedTenants) and m.gone] == [(("acme", "production"),)]
    assert [r["tenant"] for r in (await deck.ok("GET", "state"))["tenants"]] == ["bolt"]
    assert (await deck.ok("GET", "tenants/acme"))["offboarded"]


async def test_two_consoles_get_the_same_rows(deck: Deck) -> None:
    await deck.tenant()
    async with feed(deck, cursor(deck)) as one, feed(deck, cursor(deck)) as two:
        await deck.ok("POST", "tenants/acme/suspend")
        seen = [await watch(s, lambda ms: any(r.suspended for r in rows(ms))) for s in (one, two)]
    assert rows(seen[0])[-1].pointer == rows(seen[1])[-1].pointer


async def test_a_message_that_is_no_show_ends_the_feed(deck: Deck) -> None:
    async with feed(deck, cursor(deck)) as socket:
        await socket.send('{"type":"show","rows":7}')
        messages, closed = await to_the_end(socket)
    assert isinstance(messages[-1], FeedReset)
    assert closed == RESET


async def test_a_key_of_nobody_is_not_a_row(deck: Deck) -> None:
    await deck.tenant()
    async with feed(deck, cursor(deck)) as socket:
        await socket.send(FeedShow(rows=("nobody/production", "acme/production")).model_dump_json())
        messages = await watch(socket, lambda ms: rows(ms))
    assert {r.tenant for r in rows(messages)} == {"acme"}
