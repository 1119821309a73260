"""One run: a plan becomes a hub, nodes, people and callers, and ends with everything settled or with a violation."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.fleets.in_process.simulated import event_loop, stand_ins, versions
from tests.fleets.in_process.simulated.event_loop import Process, Scheduler, Stuck
from tests.fleets.in_process.simulated.hub_process import (
    HUBS,
    RELEASES,
    ROUTE,
    TENANTS,
    HubProcess,
    Image,
    build_template,
    first_image,
    lie,
    lying_figures,
)
from tests.fleets.in_process.simulated.network import Host, Network
from tests.fleets.in_process.simulated.node_process import NEXT_BUILD, NodeProcesses
from tests.simulation.bad_releases import BadReleases
from tests.simulation.callers import (
    Person,
    ask,
    drain,
    forget,
    order,
    pin_on_node,
    place,
    pool_route,
    relabel_all,
    upgrade,
)
from tests.simulation.faults import COPIED, STANDBY, VERSION_KINDS, Fault, Plan
from tests.simulation.gateways import Gateway
from tests.simulation.oracle import Oracle, Violation

from loradeck.schemas.link import Hello, Report
from loradeck.schemas.protocol import PROTOCOL
from loradeck.schemas.replica_state import LINK_TTL_S
from loradeck.schemas.route import Guard
from loradeck_agent.router.wire import RouterStats

DAY_S = 86_400.0
SETTLE_S = 150.0
"""Simulated seconds in which everything settles once faults have ended."""

NODES = 3
GATEWAYS = ("g0", "g1")
ACTIVE = "active hub"
"""The address of people and gateways, who try one hub after the other until one moves something."""

COLLECT_EVERY = 64
"""Runs between two collections of garbage that go through what earlier runs have left too, such as caches."""

_ready = False
_runs = itertools.count(1)


@dataclass
class Outcome:
    """The end of a run. `violation` is empty where every invariant held."""

    plan: Plan
    violation: str
    digest: str
    steps: int
    simulated_s: float
    counts: Counter[str]
    trace: list[str] = field(default_factory=list)


def prepare() -> None:
    """Replaces the world, once for a process."""
    global _ready
    if not _ready:
        stand_ins.install()
        build_template(NODES)
        _ready = True
        sys.unraisablehook = lambda unraisable: None  # coroutines of a run that has ended
        gc.collect()
        gc.freeze()


class Run:
    """A plan on its way."""

    def __init__(self, plan: Plan, *, keep_trace: bool = False) -> None:
        prepare()
        self.plan = plan
        self.scheduler = Scheduler(plan.seed, keep_trace=keep_trace)
        stand_ins.begin(self.scheduler)
        self.network = Network(self.scheduler)
        self.oracle = Oracle(self.scheduler)
        host = self.network.host(HUBS[0])
        other = self.network.host(HUBS[1])
        self.network.hosts[ACTIVE] = host
        host.image = other.image = first_image(on_demand=plan.seed % 3 == 0)  # type: ignore[attr-defined]
        self.hub = HubProcess(host, "hub", self.oracle)
        self.hubs = [self.hub]
        """The hubs that share the database: one is active, and the others stand by."""
        if any(fault.kind == STANDBY for fault in plan.faults):
            host.image.shared = True  # type: ignore[attr-defined]
            self.hubs.append(HubProcess(other, HUBS[1], self.oracle))
            for each in self.hubs:
                each.activated = self._activated
        self.nodes: dict[str, NodeProcesses] = self.oracle.nodes
        for number in range(plan.nodes):
            name = f"n{number}"
            self.nodes[name] = NodeProcesses(self.network.host(name), self.oracle)
        self.gateways: dict[str, Gateway] = {}
        for name in GATEWAYS:
            process = Process(self.scheduler, self.network.host(name), name)
            self.gateways[name] = Gateway(process, ACTIVE, self.oracle)
        for each in (*self.network.hosts.values(), self.network.host("ops")):
            each.network = self.network  # type: ignore[attr-defined]
        self.failure: BaseException | None = None
        self.over = False
        self.succeeded: list[HubProcess] = []
        """Hubs whose database's lease another one has taken."""
        self.active = 0
        """Faults that have not ended."""
        self.disturbed = 0.0
        """When a fault other than a copy last began or ended."""
        self.disturbing = 0

    def go(self) -> Outcome:
        """Runs the plan to its end."""
        gc.disable()
        try:
            violation = self._go()
        finally:
            event_loop.close(self.scheduler)
        outcome = Outcome(
            self.plan,
            violation,
            self.scheduler.digest,
            self.scheduler.steps,
            self.scheduler.now,
            self.oracle.counts,
            self.scheduler.trace or [],
        )
        gc.collect(2 if next(_runs) % COLLECT_EVERY == 0 else 0)  # which may say something that is no part of the run
        return outcome

    def _go(self) -> str:
        scheduler, plan = self.scheduler, self.plan
        try:
            self._start_hubs()
            for node in self.nodes.values():
                node.start()
            ops = Process(scheduler, self.network.host("ops"), "ops")
            person = Person(ops, ACTIVE, self.oracle, plan.moves, plan.asks, plan.seed % 4 == 3)
            scheduler.later(3.0, lambda: ops.start(person.main()))
            for gateway in self.gateways.values():
                gateway.process.start(gateway.main())
            for fault in plan.faults:
                scheduler.later(3.0 + fault.at, self._begin, fault)
            scheduler.later(2.0, self._look)
            scheduler.run(self._failed, 3.0 + plan.seconds)
            if self.failure is None:
                scheduler.run(lambda: self._failed() or not self.active, 3.0 + plan.seconds + 60)
            self._settle(ops, person)
        except Violation as violation:
            return str(violation)
        except Stuck as stuck:
            return f"stuck: {stuck}"
        if self.failure is not None:
            if isinstance(self.failure, Violation):
                return str(self.failure)
            return "broke: " + "".join(traceback.format_exception(self.failure))
        return ""

    def _start_hubs(self) -> None:
        """Starts the hub, and those that stand by a little later."""
        self.hub.start()
        for hub in self.hubs:
            if hub is not self.hub:
                self._later(0.5, hub.start)

    def _activated(self, hub: HubProcess) -> None:
        """One of the hubs that share a database has become the active one."""
        before, self.hub = self.hub, hub
        self.network.hosts[ACTIVE] = hub.host
        hub.succeeded_at = None
        self.succeeded = [before] if before is not hub and before.running else []

    def _failed(self) -> bool:
        self.failure = self.failure or self.oracle.violation
        return self.failure is not None

    def _later(self, seconds: float, call: object, *args: object) -> None:
        """Calls something of the run's own; what it raises ends the run."""

        def guarded() -> None:
            try:
                call(*args)  # type: ignore[operator]
            except BaseException as error:
                self.failure = self.failure or error

        self.scheduler.later(seconds, guarded)

    # ---- all along -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        try:
            ask(self.nodes, self.oracle)
            self.oracle.check_taken_over(self.hubs, self.scheduler.now)
            looks = self.oracle.turn // len(TENANTS) // len(self.nodes)
            if looks % 2 == 0 and self.hub.running and self.hub.hub is not None and not self.hub.process.paused:  # type: ignore[union-attr]
                hub = self.hub.hub
                self.oracle.check_counts(hub, self.nodes)
                self.oracle.check_reachable(self.hub, self.scheduler.now)
                self.oracle.check_followed(self.hub, self.nodes, self.scheduler.now)
                self.oracle.check_pooled(self.hub, self.scheduler.now)
                calm = (
                    not self.disturbing and self.scheduler.now - max(self.disturbed, self.hub.started_at) > LINK_TTL_S
                )
                self.oracle.check_doubled(self.hub, self.nodes, self.scheduler.now, undisturbed=calm)
                for hub_process in self.succeeded:
                    self.oracle.check_succeeded(hub_process, self.scheduler.now)
        except BaseException as error:
            self.failure = self.failure or error
        if not self.over:
            self.scheduler.later(0.25, self._look)

    def _settle(self, ops: Process, person: Person) -> None:
        """After the faults: every pin is ended, every process runs, and everything settles."""
        if self.failure is not None:
            return
        scheduler, why = self.scheduler, ""
        scheduler.note("faults have ended")
        self._hub_again()
        for node in self.nodes.values():
            node.start()
        person.moves = 0
        deadline = scheduler.now + SETTLE_S
        cleared = False
        while scheduler.now < deadline:
            scheduler.run(self._failed, scheduler.now + 0.5)
            if self.failure is not None:
                return
            if not self.hub.running or self.hub.hub is None:
                why = "there is no hub"
                continue
            if self.oracle.recover_due(self.hub.hub) and scheduler.now > deadline - SETTLE_S + 12:
                unsigned = any(fault.kind in VERSION_KINDS for fault in self.plan.faults)
                self._await(ops, person.recover(unproven=unsigned), 25)
            if not cleared:
                if self._await(ops, person.unpin_all(), 20) is not False:
                    why = "pins are being ended"
                    continue
                cleared = True
            if self._await(ops, relabel_all(ops, ACTIVE), 20) is not False:
                why = "labels are being agreed to"
                continue
            why = self.oracle.unsettled(self.hub.hub, self.nodes, list(self.gateways.values()))
            if not why:
                self.oracle.check_log(self.hub.hub)
                self.over = True
                return
        self.oracle.fail("not settled", f"{SETTLE_S:g} s after the last fault:", why)

    def _await(self, ops: Process, work: Any, seconds: float) -> Any:
        """Runs the simulation until a coroutine of a person has ended. None: it has not, or it failed."""
        asyncio.events._set_running_loop(ops)
        task = ops.create_task(work)
        self.scheduler.run(lambda: task.done() or self._failed(), self.scheduler.now + seconds)
        return task.result() if task.done() and not task.cancelled() and not task.exception() else None

    # ---- faults --------------------------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        self.scheduler.note("fault", fault.kind, f"n{fault.node}", f"{fault.seconds:.1f} s", fault.variant)
        self.oracle.counts[f"fault {fault.kind}"] += 1
        self.active += 1
        self._disturb(fault, 1)
        asyncio.events._set_running_loop(None)
        try:
            end = getattr(self, "_" + fault.kind.replace(" ", "_"))(fault, self.nodes[f"n{fault.node}"])
        except BaseException as error:
            self.failure = self.failure or error
            return
        self._later(fault.seconds, self._end, fault, end)

    def _end(self, fault: Fault, end: object) -> None:
        self.active -= 1
        self._disturb(fault, -1)
        self.scheduler.note("fault ends", fault.kind)
        if end is not None:
            end()  # type: ignore[operator]

    def _disturb(self, fault: Fault, by: int) -> None:
        if fault.kind != COPIED:
            self.disturbing, self.disturbed = self.disturbing + by, self.scheduler.now

    def _kill_hub(self, fault: Fault, node: NodeProcesses) -> object:
        process = self.hub.process
        if process is not None and process.alive:
            process.dies_after = fault.variant % 40
        return self._hub_again

    def _hub_again(self) -> None:
        for hub in self.hubs if self.hub in self.hubs else [self.hub]:
            if hub.process is not None:
                hub.process.dies_after = None
            hub.host.image.next_commit = ""  # type: ignore[attr-defined]
            hub.start()

    def _kill_hub_at_commit(self, fault: Fault, node: NodeProcesses) -> object:
        self.hub.host.image.next_commit = ("die_before", "die_after")[fault.variant % 2]  # type: ignore[attr-defined]
        return self._hub_again

    def _commit_unknown(self, fault: Fault, node: NodeProcesses) -> object:
        self.hub.host.image.next_commit = ("unknown_made", "unknown_lost")[fault.variant % 2]  # type: ignore[attr-defined]
        return None

    def _full_hub_disk(self, fault: Fault, node: NodeProcesses) -> object:
        image = self.hub.host.image  # type: ignore[attr-defined]
        image.full = True

        def end() -> None:
            image.full = False
            self._hub_again()

        return end

    def _one_copy(self, fault: Fault, node: NodeProcesses) -> object:
        image = self.hub.host.image  # type: ignore[attr-defined]
        image.alone_since = self.scheduler.now

        def end() -> None:
            image.alone_since = None

        return end

    def _second_hub(self, fault: Fault, node: NodeProcesses) -> object:
        """Another hub takes the lease of the same database, while the first one is away or only thinks it is not."""
        first = self.hub
        if len(self.hubs) > 1:
            return None
        first.host.rivals = {name: first.host.servers[name] for name in ("http", "link") if name in first.host.servers}
        return self._succeed(fault, first.host)

    def _other_hub(self, fault: Fault, node: NodeProcesses) -> object:
        """As `_second_hub`, at an address of its own, to which every agent has a link as soon as it is there."""
        first = self.hub.host
        if first.rivals or len(self.hubs) > 1:
            return None
        other = self.network.host(HUBS[first.name == HUBS[0]])
        other.image = first.image  # type: ignore[attr-defined]
        self.network.hosts[ACTIVE] = other
        return self._succeed(fault, other)

    def _succeed(self, fault: Fault, host: Host) -> object:
        first = self.hub
        if first.process is not None and first.process.alive and fault.variant % 2:
            first.process.pause()
        self.hub = HubProcess(host, f"{first.name}+", self.oracle)
        self.hub.start()
        self.succeeded.append(first)

        def resume() -> None:
            first.process.resume()  # type: ignore[union-attr]
            first.succeeded_at = None

        if first.process is not None and first.process.alive:
            self._later(fault.seconds / 2, resume)

        def end() -> None:
            first.host.rivals = {}
            self.succeeded.remove(first)
            if first.process is not None:
                first.process.kill("superseded")
            self._hub_again()

        return end

    def _stand_by(self, fault: Fault, node: NodeProcesses) -> object:
        """The active one of two hubs is killed, stopped, cut off from its database, or ended; the other takes over.

        In every second case somebody has set the clock of the database a day back or ahead in that moment.
        """
        hub = self.hub
        process, image = hub.process, hub.host.image  # type: ignore[attr-defined]
        if process is None or not process.alive or process.paused or image.cut:
            return None
        how = fault.variant % 5
        image.ahead_s = (0.0, -DAY_S, 0.0, DAY_S)[fault.variant >> 8 & 3]
        if how == 0:
            process.dies_after = fault.variant // 5 % 40
        elif how == 1:
            process.pause()
            return process.resume
        elif how == 2 and hub.hub is not None:
            hub.ends.set()
        else:
            image.silent = how == 3
            image.cut.add(hub.host.name)
        return partial(self._whole_again, image)

    def _whole_again(self, image: Image) -> None:
        image.cut.clear()
        self._hub_again()

    def _restore_hub(self, fault: Fault, node: NodeProcesses) -> object:
        """A copy of the database that was made when the fault began replaces it when it ends."""
        image = self.hub.host.image  # type: ignore[attr-defined]
        if image.connection.in_transaction:
            return None
        copy = image.copy(f"copy of {image.name} at {self.scheduler.now:.3f}")
        (newest,) = copy.connection.execute("SELECT hash FROM head").fetchone()

        def end() -> None:
            for hub in self.hubs if self.hub in self.hubs else [self.hub]:
                if hub.process is not None:
                    hub.process.kill("restored")
                hub.host.image = copy  # type: ignore[attr-defined]
            self.oracle.restored(newest, self.nodes)
            self._hub_again()

        return end

    def _clone_hub(self, fault: Fault, node: NodeProcesses) -> object:
        """A second hub on a copy of the database, with its log and key: both serve, until one is ended."""
        first, image = self.hub, self.hub.host.image  # type: ignore[attr-defined]
        if image.connection.in_transaction or first.host.rivals or len(self.hubs) > 1:
            return None
        first.host.image = copy = image.copy(f"clone of {image.name} at {self.scheduler.now:.3f}")  # type: ignore[attr-defined]
        (newest,) = copy.connection.execute("SELECT hash FROM head").fetchone()
        first.host.rivals = {name: first.host.servers[name] for name in ("http", "link") if name in first.host.servers}
        self.hub = HubProcess(first.host, f"{first.name}+", self.oracle)
        self.hub.start()

        def end() -> None:
            first.host.rivals = {}
            if first.process is not None:
                first.process.kill("one of two clones")
            self.oracle.restored(newest, self.nodes)
            self._hub_again()

        return end

    def _hostile_hello(self, fault: Fault, node: NodeProcesses) -> object:
        """A node says that it has seen more than any hub of this log has done."""
        agent = node.agent
        if agent is None:
            return None
        honest = agent.reports.hello

        async def lying() -> Hello:
            return lie(await honest(), fault.variant)

        agent.reports.hello = lying  # type: ignore[method-assign]
        self.network.break_connections(self.hub.host.name, node.name)

        def end() -> None:
            agent.reports.hello = honest  # type: ignore[method-assign]
            self.network.break_connections(self.hub.host.name, node.name)

        return end

    def _lying_figures(self, fault: Fault, node: NodeProcesses) -> object:
        """A node reports that everybody was answered badly, and more than it can know."""
        agent, turns = node.agent, itertools.count(1)
        if agent is None:
            return None
        honest = agent.reports._report
        self.oracle.liars.add(node.name)

        def lying(stats: RouterStats, *more: Any) -> Report:
            told = lying_figures(agent.table.entries.values(), node.name, next(turns), fault.variant)
            return honest(stats, *more).model_copy(update={"traffic": told})

        agent.reports._report = lying  # type: ignore[method-assign]
        return lambda: setattr(agent.reports, "_report", honest)

    def _bad_releases(self, fault: Fault, node: NodeProcesses) -> object:
        """All but one of the releases of one tenant, or of both, answer badly. All nodes report it, or one does."""
        variant, ops = fault.variant, Process(self.scheduler, self.network.host("ops"), "ops/guard")
        tenants = TENANTS if variant % 4 == 0 else TENANTS[variant % 2 :][:1]
        good = {RELEASES[tenant][variant // 4 % 2].id for tenant in tenants}
        bad = {release.id for tenant in tenants for release in RELEASES[tenant]} - good
        ends = []
        for each in [node] if variant // 8 % 3 == 0 else self.nodes.values():
            if each.agent is not None:
                self.oracle.liars.add(each.name)
                ends.append(self._reports_badly(each.name, each.agent, bad, ops.time))

        guard = {"guard": Guard.ROLLBACK}

        async def work() -> None:
            for tenant in TENANTS:
                await order(ops, ACTIVE, lambda hub, tenant=tenant: place(hub, (tenant, ROUTE), guard))

        ops.start(work())
        return lambda: [end() for end in ends]

    def _reports_badly(self, name: str, agent: Any, bad: set[str], clock: Callable[[], float]) -> Callable[[], None]:
        """`clock`: the monotonic one of simulated processes, by which routers date what they count."""
        reports = agent.reports
        made = BadReleases(bad, lambda key, generation: self.oracle.guard.spoken[key, generation].add(name))
        honest, ended = reports._report, list[bool]()

        def told(stats: RouterStats, *more: Any) -> Report:
            if not ended:
                traffic = made.figures(stats.traffic, agent.table.entries.values(), clock())
                stats = stats.model_copy(update={"traffic": traffic})
            return honest(stats, *more)  # type: ignore[no-any-return]

        reports._report = told
        return lambda: ended.append(True)

    def _copy_node(self, fault: Fault, node: NodeProcesses) -> object:
        """A second host runs with the node's agent.toml and token, until it is switched off or unplugged."""
        name = f"{node.name}'{len(self.oracle.copies)}"
        host = self.network.host(name)
        host.network = self.network  # type: ignore[attr-defined]
        copy = self.oracle.copies[name] = NodeProcesses(host, self.oracle, node.identity)
        self.oracle.unaccountable.add(node.name)  # of two routers under one name the hub can know one
        copy.start()

        def end() -> None:
            if fault.variant % 2:
                copy.power_cut()
            for process in copy.processes():
                process.kill("the copy is ended")
            copy.agent = None
            host.up = False

        return end

    def _restore_node(self, fault: Fault, node: NodeProcesses) -> object:
        files = node.host.disk.copy()

        def end() -> None:
            if node.host.up:
                node.power_cut()
                node.host.disk.restore(files)
                self.oracle.disk_restored(node.name)
                self._later(0.5, node.power_on)

        return end

    def _relabel(self, fault: Fault, node: NodeProcesses) -> object:
        """The node's agent is started again with another label."""
        node.zone = "a" if node.zone == "b" else "b"
        if node.agent_process is not None and node.agent_process.alive:
            node.agent_process.kill("its labels were changed")

        def end() -> None:
            if node.host.up:
                node.start()
            ops = Process(self.scheduler, self.network.host("ops"), "ops/relabel")
            self._later(2.0, lambda: ops.start(relabel_all(ops, ACTIVE)))

        return end

    def _drain(self, fault: Fault, node: NodeProcesses) -> object:
        """The node is drained; it serves on."""
        ops = Process(self.scheduler, self.network.host("ops"), "ops/drain")
        ops.start(order(ops, ACTIVE, lambda hub: drain(hub, node.name)))
        return None

    def _upgrade_engines(self, fault: Fault, node: NodeProcesses) -> object:
        """A campaign moves all nodes to another build, and somebody restarts the engines of those that are drained."""
        ops, wave = (
            Process(self.scheduler, self.network.host("ops"), "ops/upgrade"),
            1 + fault.variant % len(self.nodes),
        )
        name = f"upgrade-{fault.variant}"
        ops.start(order(ops, ACTIVE, lambda hub: upgrade(hub, name, NEXT_BUILD.engine, wave)))
        self._later(1.0, self._restart_drained)
        return None

    def _restart_drained(self) -> None:
        known = self.hub.hub.fleet.nodes if self.hub.running and self.hub.hub is not None else {}
        for name, node in self.nodes.items():
            if name in known and known[name].drained and node.build is not NEXT_BUILD and node.engine is not None:
                node.build = NEXT_BUILD
                node.engine.process.kill("another build is installed")
        if not self.over:
            self._later(1.0, self._restart_drained)

    def _pool_routes(self, fault: Fault, node: NodeProcesses) -> object:
        """One of the routes, or both, is placed in a pool of all nodes."""
        ops = Process(self.scheduler, self.network.host("ops"), "ops/pool")
        replicas, spread = 1 + fault.variant % 2, ("", "zone")[fault.variant // 2 % 2]
        keys = [(tenant, ROUTE) for tenant in TENANTS][: 1 + fault.variant // 4 % 2]

        async def work() -> None:
            for key in keys:
                await order(ops, ACTIVE, lambda hub, key=key: pool_route(hub, key, replicas, spread))

        ops.start(work())
        return None

    def _forget(self, fault: Fault, node: NodeProcesses) -> object:
        """The node is off, and somebody who knows it has it forgotten. It is on again later."""
        if not node.host.up:
            return None
        node.power_cut()
        ops, answered = Process(self.scheduler, self.network.host("ops"), "ops/forget"), list[bool]()

        async def work() -> None:
            answered.append(await forget(ops, ACTIVE, node.name))

        ops.start(work())

        def end() -> None:
            whose = self.oracle.forgotten if answered == [True] else self.oracle.unaccountable
            whose.add(node.name)  # where no answer came, the order may still arrive, when the node runs again
            node.power_on()

        return end

    def _old_node(self, fault: Fault, node: NodeProcesses) -> object:
        """The node runs the version before; at the end it is upgraded."""
        return self._of_before(node.host, lambda: self._start_again(node))

    def _old_hub(self, fault: Fault, node: NodeProcesses) -> object:
        """The hub speaks the version before. It keeps its log, in which that version would not read everything."""

        def start_again() -> None:
            if self.hub.process is not None:
                self.hub.process.kill("another version is started")
            self._hub_again()

        return self._of_before(self.hub.host, start_again)

    def _of_before(self, host: Host, start_again: Callable[[], None]) -> object:
        if host.version == versions.BEFORE:
            return None
        host.version = versions.BEFORE
        start_again()

        def end() -> None:
            host.version = PROTOCOL
            start_again()

        return end

    def _start_again(self, node: NodeProcesses) -> None:
        for process in (node.agent_process, node.router.process if node.router is not None else None):
            if process is not None and process.alive:
                process.kill("another version is started")
        if node.host.up:
            self._later(0.5, node.start)

    def _kill_agent(self, fault: Fault, node: NodeProcesses) -> object:
        process = node.agent_process
        if process is not None and process.alive:
            process.dies_after = fault.variant % 40

        def end() -> None:
            if process is not None:
                process.dies_after = None
            if node.host.up:
                node.start()

        return end

    def _kill_router(self, fault: Fault, node: NodeProcesses) -> object:
        if node.router is not None and node.router.process.alive:
            node.router.process.dies_after = fault.variant % 15
        return None

    def _kill_router_at_sync(self, fault: Fault, node: NodeProcesses) -> object:
        node.host.disk.dies_at_write = (f"{node.name}/router", fault.variant % 2)

        def end() -> None:
            node.host.disk.dies_at_write = None

        return end

    def _kill_engine(self, fault: Fault, node: NodeProcesses) -> object:
        if node.engine is not None:
            node.engine.process.kill("killed")
        return None

    def _power_cut(self, fault: Fault, node: NodeProcesses) -> object:
        if not node.host.up:
            return None
        node.power_cut()
        return node.power_on

    def _cut(self, pairs: list[tuple[str, str]]) -> object:
        for pair in pairs:
            self.network.sever(*pair)

        def end() -> None:
            for pair in pairs:
                self.network.mend(*pair)

        return end

    def _cut_both(self, fault: Fault, node: NodeProcesses) -> object:
        hub = self.hub.host.name
        return self._cut([(hub, node.name), (node.name, hub)])

    def _cut_one_way(self, fault: Fault, node: NodeProcesses) -> object:
        hub = self.hub.host.name
        pairs = [(hub, node.name), (node.name, hub), (hub, "ops"), ("ops", hub)]
        return self._cut([pairs[fault.variant % 4]])

    def _cut_gateway(self, fault: Fault, node: NodeProcesses) -> object:
        """A gateway and its hub, or a gateway and a node, hear each other no more, or one of them not the other."""
        gateway = GATEWAYS[fault.variant % 2]
        other = (self.hub.host.name, node.name)[fault.variant // 2 % 2]
        pairs = [(gateway, other), (other, gateway)]
        return self._cut(pairs if fault.variant // 4 % 2 else [pairs[fault.variant // 8 % 2]])

    def _reset(self, fault: Fault, node: NodeProcesses) -> object:
        self.network.break_connections(self.hub.host.name, node.name)
        return None

    def _lose_directives(self, fault: Fault, node: NodeProcesses) -> object:
        """Something between hub and node drops directives, which a stream of bytes alone would not."""
        self.network.loses[node.name] = (0.3, 0.9)[fault.variant % 2]
        return lambda: self.network.loses.pop(node.name, None)

    def _slow_router(self, fault: Fault, node: NodeProcesses) -> object:
        """The router has little of the processor: calls on different connections overtake each other."""
        node.host.slow_router_s = 3.0
        return lambda: setattr(node.host, "slow_router_s", 0.0)

    def _slow(self, fault: Fault, node: NodeProcesses) -> object:
        self.network.slow_s[node.name] = (0.05, 0.5, 2.0)[fault.variant % 3]
        return lambda: self.network.slow_s.pop(node.name, None)

    def _hand_over(self, fault: Fault, node: NodeProcesses) -> object:
        """Another router takes over on the node. In two cases of four one of the two ends meanwhile."""
        if node.runs:
            node.agent_process.call_soon(node.agent.sync.replace_router)  # type: ignore[union-attr]
            if (which := fault.variant % 4) < 2:
                self._later(fault.variant // 4 % 100 / 100, node.end_a_router, -which)
        return None

    def _pause(self, fault: Fault, node: NodeProcesses) -> object:
        router = node.router.process if node.router else None
        process = (self.hub.process, node.agent_process, router, router)[fault.variant % 4]
        if process is None or not process.alive or process.paused:
            return None
        process.pause()
        return process.resume

    def _full_node_disk(self, fault: Fault, node: NodeProcesses) -> object:
        node.host.disk.full = True

        def end() -> None:
            node.host.disk.full = False
            node.start()

        return end

    def _failing_node_disk(self, fault: Fault, node: NodeProcesses) -> object:
        node.host.disk.failing = True

        def end() -> None:
            node.host.disk.failing = False
            node.start()

        return end

    def _clock(self, fault: Fault, node: NodeProcesses) -> object:
        host = (node.host, self.hub.host)[fault.variant % 2]
        host.skew += (-3600.0, 3600.0, -7.0, 60.0)[fault.variant // 2 % 4]
        return None

    def _loads_fail(self, fault: Fault, node: NodeProcesses) -> object:
        node.load_fails = 1 + fault.variant % 3

        def end() -> None:
            node.load_fails = 0

        return end

    def _pin(self, fault: Fault, node: NodeProcesses) -> object:
        key = (TENANTS[fault.variant % 2], ROUTE)
        if node.agent is not None and node.host.up:
            process = Process(self.scheduler, node.host, f"{node.name}/pin")
            process.start(pin_on_node(key))
        return None
