"""Simulated gateways: callers' addresses, which choose a node for each request and never a release.

They are not the product's program. A gateway here decides by the product's own rules, and asks the product's own
routers, as callers do: over the network, with the header of its fence. It learns from the hub where a pointer is placed
and how far it has moved, and shows the hub the position that it was given last, as a node does in its hello.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

from tests.fleets.in_process.simulated.event_loop import Process
from tests.fleets.in_process.simulated.gateway_wire import Asked, Began
from tests.fleets.in_process.simulated.hub_process import ROUTE, TENANTS
from tests.simulation.callers import USERS
from tests.simulation.oracle import Oracle

from loradeck.hub.hub import Hub
from loradeck.rules.errors import Refused
from loradeck.rules.moves import steering
from loradeck.rules.serving import gateway as rules
from loradeck.rules.serving.assignment import ranked
from loradeck.schemas.ids import Fence, PointerKey
from loradeck.schemas.link import Bookmark, Hello
from loradeck.schemas.position import Position
from loradeck.schemas.replica_state import AckLevel
from loradeck.store.interface import StoreError
from loradeck_agent.host.errors import Unreachable
from loradeck_agent.router.fences import fence_of, fence_text

PACE_S = 1.0
"""A gateway passes on a request so often."""

FOLLOW_S = 2.0
"""It asks its hub so often, as bookmarks come to nodes."""

FIRST_BYTE_S = 3.0
"""How long a gateway waits for a node to begin its answer: longer than a router waits for an entry."""


@dataclass(frozen=True)
class Told:
    """What a hub told a gateway: the fence of each pointer, and the nodes that serve it, the preferred one first."""

    position: Position
    pointers: dict[PointerKey, tuple[Fence, tuple[str, ...]]]


@dataclass(eq=False)
class Gateway:
    """One gateway.

    Attributes:
        answered: fence of the newest entry whose router has answered, by pointer; None: the newest request was refused.
    """

    process: Process
    hub: str
    oracle: Oracle
    told: Told | None = None
    shown: dict[PointerKey, set[Fence]] = field(default_factory=lambda: defaultdict(set))
    """Every fence that routers have shown of a pointer."""
    seen: dict[PointerKey, Fence] = field(default_factory=dict)
    """The oracle's record: the highest fence that this gateway was told or shown, under its newest epoch or a later."""
    answered: dict[PointerKey, Fence | None] = field(default_factory=dict)
    health: dict[str, rules.NodeHealth] = field(default_factory=lambda: defaultdict(rules.NodeHealth))
    turn: int = 0

    async def main(self) -> None:
        """Asks the hub and passes requests on, until the run is over."""
        self.process.create_task(self._follow())
        while True:
            await asyncio.sleep(PACE_S)
            self.turn += 1
            self.process.create_task(self._request((TENANTS[self.turn % len(TENANTS)], ROUTE), self.turn))

    # ---- what it knows -------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        network = self.process.host.network
        while True:
            held = self.told.position if self.told is not None else None
            try:
                self._take(await network.call(self.hub, "http", "CALL", "", partial(_tell, seen=held), timeout=4))
            except (Unreachable, Refused, StoreError):
                self.oracle.counts["gateways without a hub"] += 1
            await asyncio.sleep(FOLLOW_S)

    def _take(self, told: Told) -> None:
        position, held = told.position, self.told.position if self.told is not None else None
        bookmark = Bookmark(epoch=position.epoch, rev=position.rev, hash=position.hash, position=position)
        if held is not None and (position.epoch, position.rev) < (held.epoch, held.rev):
            return
        if steering.flaw(bookmark, held):
            return
        self.told = told
        for key, (fence, _) in told.pointers.items():
            before = self.seen.get(key, fence)
            self.seen[key] = max(fence, before) if before[0] >= position.epoch else fence

    def _shows(self, key: PointerKey, held: Fence) -> None:
        """A router has shown which entry it holds."""
        assert self.told is not None
        self.shown[key].add(held)
        if held[0] >= self.told.position.epoch:
            self.seen[key] = max(held, self.seen.get(key, held))

    # ---- one request ---------------------------------------------------------------------------------------

    async def _request(self, key: PointerKey, turn: int) -> None:
        """Asks one node after the other, until one has begun to answer."""
        told = self.told
        if told is None or key not in told.pointers:
            return
        placed, tried, counts = told.pointers[key][1], list[str](), self.oracle.counts
        levels = {name: AckLevel.DEVICE if n < 2 else AckLevel.DISK for n, name in enumerate(placed)}
        now, health = asyncio.get_running_loop().time(), self.health
        avoided = [name for name in levels if health[name].is_avoided(now)]
        nodes = rules.ranked(levels, {name: health[name].under_way for name in levels}, avoided, str(turn).encode())
        only = dict.fromkeys(placed[:1], AckLevel.DISK)
        if turn % 2 and (ahead := rules.told_ahead(only, avoided)) is not None:
            with contextlib.suppress(Unreachable):
                await self.process.host.network.call(ahead, "router", "HINT", "", key, timeout=FIRST_BYTE_S)
        refusal = None
        while (node := rules.next_node(nodes, tried, refusal=refusal, begun=False)) is not None:
            tried.append(node)
            health[node].take(asyncio.get_running_loop().time())
            try:
                began = await self._ask(node, key, turn)
                if began is not None and began.code is None:
                    await self._rest(node, began, nodes, tried)
                    return
            finally:
                health[node].give_back()
            refusal = began.code if began is not None else None
            counts[f"gateways refused {refusal or 'unreachable'}"] += 1
        self.answered[key] = None

    async def _ask(self, node: str, key: PointerKey, turn: int) -> Began | None:
        """The beginning of a node's answer; None: there is none, and the node may answer nobody any more."""
        assert self.told is not None
        fence = self.told.pointers[key][0] if key in self.told.pointers else None
        sent = rules.highest(fence, self.told.position.epoch, self.shown[key])
        header = fence_text(sent) if sent is not None else None
        asked = Asked(self.process.name, key, f"user-{turn % USERS}", header, self.seen.get(key))
        try:
            began: Began = await self.process.host.network.call(node, "router", "POST", "", asked, timeout=FIRST_BYTE_S)
        except Unreachable:
            self.health[node].failed(asyncio.get_running_loop().time())
            return None
        self.health[node].heard(asyncio.get_running_loop().time())
        held = fence_of(began.fence) if began.fence is not None else None
        if held is not None:
            self._shows(key, held)
            self.answered[key] = held
        return began

    async def _rest(self, node: str, began: Began, nodes: list[str], tried: list[str]) -> None:
        """The rest of an answer that has begun. Where it breaks off, nobody else may be asked."""
        self.oracle.counts["answers through gateways"] += 1
        try:
            await self.process.host.network.call(node, "router", "REST", "", began.number, timeout=FIRST_BYTE_S)
        except Unreachable:
            self.health[node].failed(asyncio.get_running_loop().time())
            self.oracle.counts["answers through gateways broken off"] += 1
            if rules.next_node(nodes, tried, refusal=None, begun=True) is not None:
                self.oracle.fail("a caller was answered twice", self.process.name, *tried)


async def _tell(hub: Hub, *, seen: Position | None) -> Told:
    """What the hub tells a gateway. One that has followed what this log lacks makes it begin an epoch above that."""
    if seen is not None:
        hello = Hello.model_construct(epoch=seen.epoch, rev=seen.rev, hash=seen.hash, witness=seen)
        if (await hub.recovery.standing(hello)).is_ahead:
            async with hub.log.moving:
                await hub.log.begin_epoch(above=seen.epoch)
    live = {key: entry for key, entry in hub.tables.entries.items() if entry.current is not None}
    placed = {key: {node.name: 1.0 for node, _ in hub.replicas.placed(key)} for key in live}
    return Told(
        hub.log.position(),
        {key: (entry.fence, tuple(ranked(key, placed[key], placed[key]))) for key, entry in live.items()},
    )
