"""Tenants that move between nodes, in any order of requests, loads, evictions, moves, drains, node deaths and returns.

A hub places five routes in a pool of three nodes with two slots each; see `parts` for what is real. `make test` plays a
few orders; LORADECK_BETWEEN_NODES says how many others are to be played (docs/simulation.md).
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.fleets.in_process.log import ref
from tests.fleets.in_process.parts import KEYS, LABELS, LIMITS, Hub, Loop, Node, founded

from loradeck.hub.links import node_link
from loradeck.hub.log.log import Published
from loradeck.schemas.ids import Fence, PointerKey
from loradeck.schemas.route import Pooled
from loradeck.schemas.table import RouteResidency
from loradeck_agent.router import table as router_table
from loradeck_agent.router.admission import Admitted, Plan, Refusal
from loradeck_agent.router.wire import Cursor
from loradeck_agent.serving import router_sync

NAMES = ("n1", "n2", "n3")
nodes = st.integers(0, len(NAMES) - 1)
keys = st.sampled_from(KEYS)
number = st.integers(0, 20)


class BetweenNodes(RuleBasedStateMachine):
    """Three nodes, one hub, and callers who ask any of them, right or wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.folder = tempfile.TemporaryDirectory(prefix="ld")
        disk: Any = SimpleNamespace(**vars(os))
        disk.fsync = disk.fdatasync = lambda file: None  # no power is cut here
        self.stand_ins = [
            mock.patch.object(node_link, "link_socket", lambda socket: socket.wire),
            mock.patch.object(router_sync, "time", SimpleNamespace(monotonic=self.loop.time)),
            mock.patch.object(router_table, "os", disk),
            mock.patch.object(router_table, "fsync_folder"),
            mock.patch.object(router_table, "reserve", return_value=True),
        ]
        for one in self.stand_ins:
            one.start()
        self.nodes = [Node(self.loop, name, Path(self.folder.name) / name) for name in NAMES]
        self.asked: list[asyncio.Task[Any]] = []
        self.shown: dict[PointerKey, Fence] = {}
        """The newest move that an answer has shown a gateway."""
        self.positions: dict[str, tuple[int, Cursor]] = {}
        """How far each node's agent had followed the log, and which agent."""

    @initialize(always=st.booleans())
    def begin(self, always: bool) -> None:
        self.hub = founded(self.loop)
        if always:
            self.loop.finish(self.hub.log.commit([self.hub.config(KEYS[0], residency=RouteResidency.ALWAYS)]))
        self._watch_assignments()
        for node in self.nodes:
            self.loop.finish(node.start())
            self.loop.finish(node.connect(self.hub))
        self.everything_flows(3)

    def _watch_assignments(self) -> None:
        now = {key: self.hub.log.state.site(key).nodes or frozenset() for key in KEYS}

        def committed(published: Published) -> None:
            for key in KEYS:
                was, now[key] = now[key], self.hub.log.state.site(key).nodes or frozenset()
                entry = self.hub.entry(key)
                for node in self.nodes if was - now[key] else ():
                    if node.name in now[key] and entry.current is not None:
                        flipped = node.promised.get(key)
                        assert flipped == (entry.fence, entry.current.id), f"{node.name} is not there yet"

        self.hub.log.followers.append(committed)

    # ---- callers -----------------------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(("right", "right", "any", "cold", "cold", "crowd", "hint", "leave", "end")),
        i=nodes,
        key=keys,
        through=st.booleans(),
    )
    def callers(self, what: str, i: int, key: PointerKey, through: bool) -> None:
        """Somebody asks a node that serves the route, or any, perhaps through a gateway, which says what it knows.

        Or for what is not loaded there, four at once in a crowd; a gateway announces a request, a caller leaves the
        queue, an answer ends.
        """
        there = sorted(self.hub.log.state.site(key).nodes or ())
        node = self.nodes[NAMES.index(there[i % len(there)]) if there and what == "right" else i]
        if not node.up:
            return
        if what in ("cold", "crowd") and node.cold.awaited:
            key = sorted(node.cold.awaited)[KEYS.index(key) % len(node.cold.awaited)]
        if what == "right" and through and (behind := [one for one in KEYS if self._is_behind(node, one)]):
            key = behind[KEYS.index(key) % len(behind)]
        match what:
            case "hint":
                self.loop.finish(node.hint(key))
            case "leave":
                for task in [*node.waiting][:1]:
                    task.cancel()
            case "end":
                self._ends(node)
            case _:
                seen = max(self.hub.entry(key).fence, self.shown.get(key, (0, 0))) if through else None
                for _ in range(4 if what == "crowd" else 1):
                    self.asked.append(self.loop.create_task(self._ask(node, key, seen)))
        self.loop.finish()

    def _is_behind(self, node: Node, key: PointerKey) -> bool:
        """Tells whether a node's router answers by a move before the newest one."""
        entry = node.table.contents.entries.get(key)
        return entry is not None and key not in node.cold.awaited and entry.fence < self.hub.entry(key).fence

    def _ends(self, node: Node) -> None:
        for at in node.answers[:1]:
            node.answers.remove(at)
            node.admission.left(at, 200, "answered")

    async def _ask(self, node: Node, key: PointerKey, seen: Fence | None) -> Any:
        found = await node.ask(key, seen)
        if isinstance(found, Admitted):
            row, entry = found.row, node.table.contents.entries[key]
            fence = (row.epoch, row.generation)
            self.shown[key] = max(fence, self.shown.get(key, fence))
            assert row.release in {one.id for one in node.loaded}
            assert seen is None or fence >= seen, "a gateway has seen more"
            if entry.residency is RouteResidency.ON_DEMAND:
                assert entry.current is not None, "it is not here any more"
                assert (fence, row.release) == (entry.fence, entry.current.id), "a left release"
            if (promised := node.promised.get(key)) is not None:
                assert fence > promised[0] or (fence, row.release) == promised, "left, and acknowledged as such"
        return found

    # ---- engines and hosts -------------------------------------------------------------------------------------

    @rule(i=nodes, what=st.sampled_from(("work", "work", "evict", "die", "return", "agent", "cut", "link", "link")))
    def host(self, i: int, what: str) -> None:
        """An engine loads, or others unload all that it held; a host dies and returns with the table that it had,
        by which it answers before it hears from anybody; its agent starts anew, its link is cut, it links.
        """
        node = self.nodes[i]
        if what == "return":
            self.loop.finish(node.start() if not node.up else None)
        elif what == "cut":
            node.disconnect(self.hub)
        elif node.up:
            self.loop.finish(self._happens(node, what))

    async def _happens(self, node: Node, what: str) -> None:
        match what:
            case "work":
                await node.work()
            case "evict":
                node.loaded.clear()
                await node.push_engines()
            case "die":
                node.disconnect(self.hub)
                await node.die()
            case "agent":
                node.disconnect(self.hub)
                await node.start_agent()
            case "link":
                await node.connect(self.hub)

    # ---- people, and the hub -----------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(
            ("promote", "promote", "first", "back", "replicas", "always", "drain", "drain", "undrain", "hub")
        ),
        i=nodes,
        key=keys,
        label=st.sampled_from(LABELS),
    )
    def people(self, what: str, i: int, key: PointerKey, label: str) -> None:
        """Somebody moves a route, perhaps the first one, asks for one more or one fewer of its nodes, has the first one
        always in memory or no more, drains a node or ends that, or starts the hub again.
        """
        key = KEYS[0] if what == "first" else key
        hub, draft, config = self.hub, None, self.hub.log.state.config(key)
        release, known = ref(label, key[0]), self.hub.fleet.nodes[NAMES[i]]
        match what:
            case "promote" | "first" if release.id != hub.log.state.pointer(key).release:
                draft = hub.promote(key, release)
            case "back":
                draft = hub.rollback(key)
            case "replicas":
                draft = hub.config(key, pool=Pooled(pool="main", replicas=3 - config.pool.replicas))
            case "always":
                always = hub.log.state.config(KEYS[0]).residency is RouteResidency.ALWAYS
                now = RouteResidency.ON_DEMAND if always else RouteResidency.ALWAYS
                draft = hub.config(KEYS[0], residency=now)
            case "drain" | "undrain":
                hub.fleet.order(known, cordoned=what == "drain", drained=what == "drain")
            case "hub":
                for node in self.nodes:
                    node.disconnect(hub)
                hub.log.kept.epoch += 1
                self.hub = Hub(self.loop, hub.log.kept, before=hub)
                self._watch_assignments()
        self.loop.finish(hub.log.commit([draft]) if draft is not None else None)

    # ---- what is under way -------------------------------------------------------------------------------------

    @rule(i=nodes, what=st.sampled_from(("read", "deliver", "directive", "call")), nth=number)
    def wire(self, i: int, what: str, nth: int) -> None:
        """One message arrives; or a directive of a link before comes late or once more, or the router gets a call that
        its agent has given up.
        """
        node = self.nodes[i]
        if what == "deliver":
            node.deliver_one()
        self.loop.finish(self._late(node, what, nth) if node.up else None)

    async def _late(self, node: Node, what: str, nth: int) -> None:
        if what == "read":
            await node.read_one()
        elif what == "directive" and node.read:
            await node.sync.directive(node.read[-1 - nth % len(node.read)])
        elif what == "call" and node.called:
            node.give(node.called[-1 - nth % len(node.called)])

    @rule(seconds=st.sampled_from((1.0, 3.0, 7.0, 25.0)))
    def time_passes(self, seconds: float) -> None:
        """Agents go on asking what they are to load, and load nothing meanwhile."""
        until = self.loop.now + seconds
        while self.loop.now < until:
            self.loop.now = min(until, self.loop.now + 5.0)
            self.loop.finish(self.hub.second())
            for node in self.nodes:
                self.loop.finish(node.look() if node.up else None)

    @rule(rounds=st.sampled_from((1, 1, 2, 5)), stuck=st.sampled_from((None, None, 0, 1, 2)))
    def everything_flows(self, rounds: int, stuck: int | None = None) -> None:
        """Messages arrive, engines load, seconds pass. `stuck`: a node whose engine loads nothing."""
        for _ in range(rounds):
            self.time_passes(1.0)
            self.loop.finish(self._flow(stuck))

    async def _flow(self, stuck: int | None) -> None:
        for i, node in enumerate(self.nodes):
            await node.flow()
            if node.up and i != stuck:
                await node.work()
            await node.flow()

    # ---- what holds, always ------------------------------------------------------------------------------------

    @invariant()
    def nobody_was_answered_by_a_left_release(self) -> None:
        for task in [task for task in self.asked if task.done()]:
            self.asked.remove(task)
            if not task.cancelled():
                task.result()

    @invariant()
    def no_router_admits_to_what_it_has_acknowledged_as_left(self) -> None:
        for node in self.nodes:
            for key, promised in node.promised.items() if node.up else ():
                route = node.admission._routes.get(key)
                if route is not None and isinstance(route.plan, Plan):
                    fence = (route.plan.entry.epoch, route.plan.generation)
                    assert fence > promised[0] or (fence, route.plan.release) == promised, f"{key} on {node.name}"

    @invariant()
    def where_the_hub_counts_a_flip_everywhere_nobody_admits_to_anything_else(self) -> None:
        for key in KEYS:
            entry, counted = self.hub.entry(key), self.hub.replicas.progress(key)
            if not counted.placed or counted.flipped < counted.placed:
                continue
            placed = {node.name for node, _ in self.hub.replicas.placed(key)}
            for node in self.nodes:
                route = node.admission._routes.get(key) if node.up else None
                if route is None or not isinstance(route.plan, Plan):
                    continue
                assert node.name in placed, f"{node.name} admits, and is not counted"
                assert (route.plan.entry.fence, route.plan.release) == (entry.fence, entry.current and entry.current.id)

    @invariant()
    def no_queue_outgrows_its_bounds_or_waits_for_nothing(self) -> None:
        for node in self.nodes:
            if not node.up:
                continue
            waiting = list(node.waiting.values())
            assert len(waiting) <= LIMITS.waiting
            for tenant in {key[0] for key, _ in waiting}:
                assert sum(key[0] == tenant for key, _ in waiting) <= LIMITS.tenant
            assert sum(map(len, node.cold._of_tenant.values())) == len(waiting)
            for key, since in waiting:
                assert key in node.cold.awaited, f"{key} waits on {node.name} for nothing"
                assert self.loop.now - since <= LIMITS.seconds
            assert len(node.cold._named) <= LIMITS.loads

    @invariant()
    def no_position_of_a_node_goes_back(self) -> None:
        for node in self.nodes:
            known = self.positions.get(node.name, (node.agent, Cursor()))
            if node.agent == known[0]:
                assert node.desired.cursor >= known[1], f"{node.name} took an older directive"
            self.positions[node.name] = node.agent, node.desired.cursor

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and hasattr(self, "hub"):
                self._comes_to_rest()
        finally:
            for node in self.nodes:
                if node.up:
                    self.loop.finish(node.die())
            for task in self.asked:
                task.cancel()
            self.loop.finish()
            self.loop.close()
            for one in self.stand_ins:
                one.stop()
            self.folder.cleanup()

    def _comes_to_rest(self) -> None:
        """Left alone, each route is on the nodes that it asks for, and answered there by its own release alone."""
        for i in range(len(NAMES)):
            self.people("undrain", i, KEYS[0], "")
            self.host(i, "return")
        for _ in range(3):
            for i in range(len(NAMES)):
                self.host(i, "link")
            self._answers_end(3)
            self.time_passes(25.0)
        self._answers_end(3)
        for key in KEYS:
            counted, site = self.hub.replicas.progress(key), self.hub.log.state.site(key)
            assert site.nodes is not None
            assert len(site.nodes) == self.hub.log.state.config(key).pool.replicas
            assert counted.flipped == counted.placed == len(site.nodes), f"{key} on {sorted(site.nodes)}: {counted}"
            seen = self.hub.entry(key).fence
            asked = {node: self.loop.create_task(self._ask(node, key, seen)) for node in self.nodes}
            for _ in range(20):
                self._answers_end(1)
                if all(task.done() for task in asked.values()):
                    break
            for node, task in asked.items():
                found = task.result()
                there, full = node.name in site.nodes, isinstance(found, Refusal) and found.code == "no_slot"
                assert isinstance(found, Admitted) is (there and not full), (node.name, key, found)
        self.where_the_hub_counts_a_flip_everywhere_nobody_admits_to_anything_else()

    def _answers_end(self, rounds: int) -> None:
        for _ in range(rounds):
            self.everything_flows(1)
            for node in self.nodes:
                while node.answers:
                    self._ends(node)


BetweenNodes.TestCase.settings = settings(
    max_examples=int(os.environ.get("LORADECK_BETWEEN_NODES", "12")),
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestBetweenNodes = BetweenNodes.TestCase
