"""Requests that wait for a load: who is answered by what, in any order of loads, evictions, moves and deaths."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.integration.router.running import BASE, entry, release

from loradeck.rules.serving import residency
from loradeck.schemas.log import GENESIS
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import ColdQueueLimits, Gap, ReleaseRef, RouteResidency, TableEntry
from loradeck_agent.router import cold_queue
from loradeck_agent.router.admission import Admission, Admitted, Caller, Refusal
from loradeck_agent.router.cold_queue import ColdQueue
from loradeck_agent.router.counters import Stats
from loradeck_agent.router.engine_pools import Replicas
from loradeck_agent.router.hub_silence import HubSilence
from loradeck_agent.router.switch import Switch
from loradeck_agent.router.table import Contents
from loradeck_agent.router.wire import ColdAsk, Cursor, EngineAt

TENANTS = ("acme", "bolt", "cedar")
CALLER = Caller("", lambda unit: None, repeats=False)
SLOTS = 2


class TableInMemory:
    """The router's table without a disk."""

    def __init__(self) -> None:
        self.contents = Contents()
        self.trouble, self.volatile, self.bloated = "", set[Any](), False
        self.hub_silent_s = 0.0

    def append(self, change: Any) -> None:
        """Takes a change, as a disk would."""


@dataclass(eq=False)
class Node:
    """A router's switch, admission and queue before one engine; nothing listens."""

    limits: ColdQueueLimits = field(default_factory=ColdQueueLimits)
    loaded: list[ReleaseRef] = field(default_factory=list)
    up: bool = True
    rev: int = 0
    entries: dict[str, TableEntry] = field(default_factory=dict)
    beneath: dict[str, str] = field(default_factory=dict)
    """Tenant -> label of the release that it left last, which R goes to."""

    def __post_init__(self) -> None:
        table: Any = TableInMemory()
        self.cold = ColdQueue(self.limits)
        self.admission = Admission(HubSilence(table), Stats(), self.cold)
        self.replicas = Replicas()
        self.switch = Switch(table, self.admission, self.replicas)
        self.switch.start()

    def move(self, tenant: str, label: str, **fields: Any) -> None:
        self.rev += 1
        fields = {"residency": RouteResidency.ON_DEMAND, "gap": Gap.REFUSE} | fields
        made = entry(release(label, tenant), self.rev, tenant=tenant, moved_ms=0, **fields)
        (ack,) = self.switch.directive(Cursor(1, self.rev, GENESIS), [made]).acks or (None,)
        assert ack is None or made.residency is RouteResidency.ALWAYS or ack.state is AckState.FLIPPED
        if tenant in self.entries and (left := self.entries[tenant].current) is not None:
            self.beneath[tenant] = left.release.label
        self.entries[tenant] = made

    def full(self) -> list[str]:
        """The releases that no slot can come free for, as the agent finds them."""
        entries, now_ms = list(self.entries.values()), residency.PRIOR_KEPT_MS + 1
        currents = [one.current.id for one in entries if one.current is not None]
        free = residency.with_room(currents, residency.claims(entries, slots=SLOTS, now_ms=now_ms))
        return [one for one in currents if one not in free]

    def engine(self) -> None:
        ready = tuple(ref.id for ref in self.loaded)
        self.switch.engines([EngineAt(replica="e0", socket="/e0.sock", base=BASE, ready=ready)] if self.up else [])

    async def ask(self, tenant: str) -> Admitted | Refusal:
        """A caller's request, as the proxy has it admitted."""
        key = (tenant, "production")
        if key in self.cold.awaited and (retry_s := await self.cold.wait(key)) is not None:
            refusal = self.admission.refuse(key, retry_s, full=self.cold.is_full(key))
            if refusal is not None:
                return refusal
        return self.admission.admit(key, "r", CALLER, streamed=False, passed_by=None)

    async def wanted(self, times: int = -1, *failing: str) -> list[str]:
        found = await self.cold.wanted(ColdAsk(times=times, failing=failing, load_s=0.5))
        return [tenant for tenant, _, _ in found.releases]

    async def load_next(self, answering: set[str]) -> None:
        """What the agent does: plans, drains or unloads, then loads one release."""
        waiting = [(tenant, "production") for tenant in await self.wanted()]
        coming = [(tenant, route) for tenant, route, _ in self.cold._hinted]
        entries, now_ms = list(self.entries.values()), residency.PRIOR_KEPT_MS + 1
        found = residency.plan(
            residency.claims(entries, slots=SLOTS, now_ms=now_ms),
            [ref.id for ref in self.loaded],
            answering=answering,
            waiting=waiting,
            hinted=coming,
        )
        for tenant, one in self.entries.items():
            if one.residency is RouteResidency.ALWAYS and one.current in self.loaded:
                assert one.current.id not in {*found.unload, *found.drain}, f"{tenant} is always there"
        gone = {*found.unload, *found.drain}
        self.loaded = [ref for ref in self.loaded if ref.id not in gone]
        self.engine()
        if found.load and self.up:
            self.loaded.append(found.load[0])
            self.engine()


async def settled() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node(ColdQueueLimits(waiting=4, tenant=2))
    made.engine()
    for tenant in TENANTS:
        made.move(tenant, "v1")
    yield made
    await made.replicas.close()


async def test_a_request_waits_for_the_load_and_is_answered_by_the_release_in_force_by_then(node: Node) -> None:
    waits = asyncio.create_task(node.ask("acme"))
    await settled()
    assert await node.wanted() == ["acme"]
    node.move("acme", "v2")
    node.loaded = [release("v1")]
    node.engine()
    await settled()
    assert not waits.done(), "v1 was left while it waited"
    node.loaded.append(release("v2"))
    node.engine()
    found = await waits
    assert isinstance(found, Admitted)
    assert (found.row.release, found.row.generation) == (release("v2").id, 4)
    assert await node.wanted() == []
    figures = node.cold.figures(1)
    assert figures is not None
    assert (figures.cold, figures.waiting, figures.refused) == (1, 0, 0)


async def test_a_flood_of_one_tenant_makes_room_for_another_and_the_displaced_are_told_when_to_come_back(
    node: Node,
) -> None:
    flood = [asyncio.create_task(node.ask("acme")) for _ in range(3)]
    more = [asyncio.create_task(node.ask("bolt")) for _ in range(2)]
    await settled()
    refused = flood[2].result()
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code, refused.retry_after_s) == (503, "cold_queue_full", 2)
    third = asyncio.create_task(node.ask("cedar"))
    await settled()
    assert [task.done() for task in (*flood[:2], *more, third)] == [False, False, False, True, False]
    assert await node.wanted() == ["acme", "bolt", "cedar"]
    for task in (*flood, *more, third):
        task.cancel()
    await settled()
    assert await node.wanted() == []


@pytest.mark.parametrize("gap", [Gap.REFUSE, Gap.BASE])
async def test_a_load_that_fails_or_takes_too_long_leaves_requests_to_the_gap_policy(gap: Gap) -> None:
    node = Node(ColdQueueLimits(seconds=0.05))
    node.engine()
    node.move("acme", "v1", gap=gap)

    def decided(found: Admitted | Refusal) -> bool:
        return (
            isinstance(found, Admitted) if gap is Gap.BASE else isinstance(found, Refusal) and found.code == "not_ready"
        )

    assert decided(await node.ask("acme")), "it took too long"
    waits = asyncio.create_task(node.ask("acme"))
    await settled()
    await node.wanted(-1, release("v1").id)
    await settled()
    assert decided(waits.result()), "it failed"
    again = asyncio.create_task(node.ask("acme"))
    await settled()
    assert decided(again.result()), "and nobody waits for it again"


@pytest.mark.parametrize("gap", [Gap.REFUSE, Gap.BASE])
async def test_nobody_waits_for_a_release_that_gets_no_slot_and_the_refusal_says_why(gap: Gap) -> None:
    node = Node()
    node.engine()
    node.move("acme", "v1", gap=gap)
    waits = asyncio.create_task(node.ask("acme"))
    await settled()
    assert await node.wanted() == ["acme"]
    full = ColdAsk(times=-1, full=(release("v1").id,))
    await node.cold.wanted(full)
    await settled()
    again = asyncio.create_task(node.ask("acme"))
    await settled()
    for found in (waits.result(), again.result()):
        if gap is Gap.BASE:
            assert isinstance(found, Admitted), "the base answers"
        else:
            assert isinstance(found, Refusal)
            assert (found.status, found.code, found.retry_after_s) == (503, "no_slot", 60)
            assert "acme/production" in found.message
    await node.cold.wanted(ColdAsk(times=-1))
    waits = asyncio.create_task(node.ask("acme"))
    await settled()
    assert not waits.done(), "a slot may come free again"
    waits.cancel()
    await settled()
    await node.replicas.close()


async def test_a_release_whose_request_is_coming_is_wanted_after_those_that_are_waited_for_and_not_for_ever(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, passed = asyncio.get_running_loop(), 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + passed)
    waits = asyncio.create_task(node.ask("bolt"))
    await settled()
    for tenant in (*TENANTS, "nobody"):
        node.cold.hint((tenant, "production"))
    found = await node.cold.wanted(ColdAsk(times=-1))
    assert [tenant for tenant, _, _ in found.releases] == ["bolt"]
    assert [tenant for tenant, _, _ in found.hinted] == ["acme", "cedar"]
    later = asyncio.create_task(node.ask("acme"))
    await settled()
    found = await node.cold.wanted(ColdAsk(times=found.times))
    assert [tenant for tenant, _, _ in found.releases] == ["bolt", "acme"], "it has come"
    assert [tenant for tenant, _, _ in found.hinted] == ["cedar"]
    passed = 5.5
    found = await node.cold.wanted(ColdAsk(times=found.times))
    assert found.hinted == (), "it has not come in time"
    figures = node.cold.figures(1)
    assert figures is not None
    assert (figures.hinted, figures.waiting) == (2, 2)
    for task in (waits, later):
        task.cancel()
    await settled()


async def test_a_release_that_does_not_come_gives_its_turn_up_though_requests_for_it_go_on_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, passed = asyncio.get_running_loop(), 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + passed)
    node = Node(ColdQueueLimits(seconds=8, loads=1))
    node.engine()
    for tenant in TENANTS[:2]:
        node.move(tenant, "v1")
    first = asyncio.create_task(node.ask("acme"))
    await settled()
    passed = 4.0
    others = [asyncio.create_task(node.ask(tenant)) for tenant in ("acme", "bolt")]
    await settled()
    assert await node.wanted() == ["acme"]
    passed = 8.0
    await first
    assert [other.done() for other in others] == [False, False]
    assert await node.wanted() == ["bolt"]
    for other in others:
        other.cancel()
    await settled()
    assert await node.wanted() == []
    await node.replicas.close()


async def test_nobody_waits_for_the_load_of_an_agent_that_asks_no_more(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr(cold_queue, "SILENT_S", 0.0)
        found = await asyncio.wait_for(node.ask("acme"), 60)
    assert isinstance(found, Refusal)
    assert found.code == "not_ready", "the gap policy answers"
    await node.wanted()
    waits = asyncio.create_task(node.ask("acme"))
    await settled()
    assert not waits.done(), "it asks again"
    waits.cancel()
    await settled()


async def test_whoever_waits_goes_on_when_another_router_has_the_right_to_admit(node: Node) -> None:
    waits = asyncio.create_task(node.cold.wait(("acme", "production")))
    await settled()
    node.cold.end()
    assert await waits is None


async def test_an_always_route_and_a_resident_release_have_nothing_to_do_with_the_queue(node: Node) -> None:
    node.move("acme", "v1", residency=RouteResidency.ALWAYS)
    node.loaded = [release("v1", "bolt")]
    node.engine()
    assert set(node.cold.awaited) == {("cedar", "production")}


steps = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "ask",
                "ask",
                "ask",
                "hint",
                "load",
                "load",
                "evict",
                "full",
                "move",
                "back",
                "always",
                "die",
                "return",
                "end",
                "leave",
            )
        ),
        st.integers(0, 2),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(steps)
def test_in_any_order_nobody_gets_a_left_release_no_always_route_is_turned_out_and_no_queue_outgrows_its_cap(
    order: list[tuple[str, int]],
) -> None:
    asyncio.run(_play(order))


async def _play(order: list[tuple[str, int]]) -> None:
    node = Node(ColdQueueLimits(waiting=3, tenant=2, loads=2))
    node.engine()
    for tenant in TENANTS:
        node.move(tenant, "v1")
    asks: list[asyncio.Task[None]] = []
    under_way: list[Admitted] = []
    counts = Counter[str]()

    async def ask(tenant: str) -> None:
        found = await node.ask(tenant)
        if isinstance(found, Admitted):
            wanted = node.entries[tenant]
            assert wanted.current is not None
            assert (found.row.release, found.row.generation) == (wanted.current.id, wanted.generation), "a left release"
            assert wanted.current in node.loaded
            under_way.append(found)
            counts["answered"] += 1

    for what, number in order:
        tenant = TENANTS[number]
        match what:
            case "ask":
                asks.append(asyncio.create_task(ask(tenant)))
            case "load" if node.up:
                await node.load_next({at.row.release for at in under_way})
            case "evict":
                node.loaded = node.loaded[1:]
                node.engine()
            case "move":
                node.move(tenant, f"v{node.rev}", residency=node.entries[tenant].residency)
            case "back" if (left := node.beneath.get(tenant)) is not None:
                node.move(tenant, left, residency=node.entries[tenant].residency)
            case "hint":
                node.cold.hint((tenant, "production"))
            case "full":
                await node.cold.wanted(ColdAsk(times=-1, full=tuple(node.full())))
            case "always":
                node.move(tenant, f"v{node.rev}", residency=RouteResidency.ALWAYS) if number == 0 else None
            case "die":
                node.up, node.loaded = False, []
                node.engine()
            case "return":
                node.up = True
                node.engine()
            case "end" if under_way:
                at = under_way.pop(number % len(under_way))
                node.admission.left(at, 200, "answered")
            case "leave" if asks:
                asks[number % len(asks)].cancel()
        await settled()
        figures = node.cold.figures(1)
        assert figures is not None
        assert figures.waiting <= 3
    for task in asks:
        task.cancel()
    for result in await asyncio.gather(*asks, return_exceptions=True):
        assert result is None or isinstance(result, asyncio.CancelledError), result
    for at in under_way:
        node.admission.left(at, 200, "answered")
    left = node.cold.figures(1)
    assert left is not None
    assert left.waiting == 0
    await node.replicas.close()
