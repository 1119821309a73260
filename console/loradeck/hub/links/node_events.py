"""The consequences of a node's messages: hellos, links that open and end, reports, and nodes that are lost."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from loradeck.hub.fleet.node import Node, NodeLink
from loradeck.hub.fleet.node_tables import NodeTables, Placing
from loradeck.hub.fleet.nodes import Change, Fleet
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.links.pins import Pins
from loradeck.hub.log.changes import Changes
from loradeck.hub.progress.arm_outcomes import ArmsSaid
from loradeck.hub.progress.deprecated_callers import DeprecatedCallers
from loradeck.hub.progress.move_progress import MoveProgress
from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.hub.progress.votes import Votes
from loradeck.hub.recovery.recover import Recovery
from loradeck.hub.recovery.startup import Startup
from loradeck.rules.errors import Refused
from loradeck.rules.serving.placement import believed
from loradeck.schemas.counts import Counts, Traffic
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Hello, NodeOrder, Report
from loradeck.schemas.replica_state import LINK_TTL_S
from loradeck.schemas.table import TableEntry
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.links.node_events")

Lost = Callable[[list[Node]], None]
"""Called with the nodes that were lost; none: replicas came, went, or changed their state."""


@dataclass(eq=False, kw_only=True)
class NodeEvents:
    """Keeps the fleet up to date, and marks the rows that change with a node."""

    fleet: Fleet
    tables: NodeTables
    withdrawals: Withdrawals
    counts: RequestCounts
    votes: Votes
    arms: ArmsSaid
    deprecated: DeprecatedCallers
    progress: MoveProgress
    changes: Changes
    followers: list[Lost] = field(default_factory=list, init=False)
    _ticked: float = field(default=0.0, init=False)

    def linked(self, hello: Hello, link: NodeLink, bound: Mapping[str, str] | None) -> Node:
        """A node has linked, by a link that counts.

        `bound`: the labels that its credential binds; None: it binds none.
        """
        known, said = self.fleet.nodes.get(hello.node), hello.labels
        before_this = (known.labels if known.allowed is None else known.allowed) if known is not None else None
        labels = dict(believed(said, bound=bound, known=before_this))
        if labels != said:
            log.warning("labels not believed node=%s says=%s placed_by=%s", hello.node, said, labels)
            hello = hello.model_copy(update={"labels": labels})
        before = self._placed_on(known) if known and known.labels != hello.labels else None
        node = self.fleet.hello(hello, link)
        node.said, node.allowed = said, None
        if before is not None:  # what it was placed for under its old labels it may serve on
            after = self._placed_on(node)
            left = {key: at for key, at in before.items() if key not in after}
            self.withdrawals.labelled_otherwise(node, left, after.keys() - before)
        log.info("link up node=%s version=%s rev=%d epoch=%d", node.name, hello.version, hello.rev, hello.epoch)
        self.changed(node)
        return node

    def _placed_on(self, node: Node) -> dict[PointerKey, Placing]:
        """The pointers that are placed on a node and whose base an engine of it runs."""
        bases = {replica.base for replica in node.replicas}
        keys = self.tables.placed(self.tables.table(node.labels, node.name, own=False))
        return {key: at for key in keys if (at := self.tables.placing(key)) is not None and at.base in bases}

    def unlinked(self, node: Node, link: NodeLink) -> None:
        """A link has ended. Nothing changes where its node has a newer one."""
        if self.fleet.unlinked(node, link):
            log.info("link down node=%s", node.name)
            self.changed(node)

    def contested(self, name: str, links: Sequence[NodeLink]) -> None:
        """Two agents are linked under one name: neither counts, as if the node were lost, and both are told."""
        node = self.fleet.nodes.get(name)
        if node is None:
            return
        node.contested = tuple(sorted(link.peer for link in links))
        log.error("two agents are linked as one node=%s from=%s: neither counts", name, ", ".join(node.contested))
        if not node.lost:
            self.fleet.lose(node)
        self.changed(node)
        self._publish([node])
        for link in links:
            link.put_message(NodeOrder(cordoned=node.cordoned, drained=node.drained, contested=True))

    def changed(self, node: Node) -> None:
        """Marks the rows of a node and of the pointers placed on it."""
        self.changes.node(node.name)
        keys = self._keys(node)
        self.progress.check_soon(keys)
        self.changes.soon_for_all(keys)

    def ordered(self, node: Node) -> None:
        """Tells a node whether it is cordoned or drained, and marks the rows that this changes."""
        _give_order(node)
        self.changed(node)

    def _keys(self, node: Node) -> list[PointerKey]:
        """The pointers whose counts a node belongs to."""
        table = self.tables.table(node.labels, node.name, own=False)
        held = self.withdrawals.on(node.name) - table.members
        return [*table.keys, *held] if held else table.keys

    def _unserved(self, node: Node) -> Callable[[Traffic], str]:
        """Why a node serves nothing of what a row of its counters is about: it speaks of what it was told to serve."""
        tables, table = self.tables, self.tables.table(node.labels, node.name)
        withdrawn, replicas = self.withdrawals.on(node.name), {replica.replica for replica in node.replicas}

        def why(row: Traffic) -> str:
            key = (row.tenant, row.route)
            entry = table.own.get(key) or tables.entries[key]
            if key not in table.members and key not in withdrawn:
                return "it is not placed on this node"
            if row.replica not in replicas:
                return f"this node has no engine {row.replica}"
            if row.generation > entry.generation:
                return f"generation {row.generation} is still to come"
            return ""

        return why

    def reported(self, node: Node, report: Report) -> None:
        """A node has sent its telemetry and its router's counters."""
        change = self.fleet.report(node, report)
        if failing := self.fleet.cordon_failing(node, report.gpus, report.nvml):
            log.error("node cordoned node=%s: %s", node.name, "; ".join(sorted(failing)))
            _give_order(node)
            change = Change.PLACED
        fault = self.counts.fault(node.name)
        now, unserved, entries = self.fleet.clock(), self._unserved(node), self.tables.entries
        rows = [row for row in report.traffic if (row.tenant, row.route) in entries]
        vote = self.votes.counted(node.name, report.router_boot, rows)

        def votes(row: Traffic, growth: Counts, ttft: tuple[int, ...], pace: tuple[int, ...]) -> str:
            entry, late = entries[row.tenant, row.route], ""
            if _is_in_force(row, entry):
                late = vote(row, growth, ttft, pace)
                self.arms.count(node.name, report.router_boot, row)
            if row.called_by and any(one.release == row.release for one in entry.deprecated):
                self.deprecated.told(row)
            return late

        counted = self.counts.report(node.name, report.router_boot, rows, now, unserved, votes)
        for key in counted:
            self.progress.traffic(key)
        if change is Change.NOTHING and fault == self.counts.fault(node.name):
            self.changes.node_figures(node.name)
        else:
            self.changes.node(node.name)
        self.changes.soon(counted)
        if change is Change.PLACED:
            self.changed(node)
            self._publish([])
        elif change is Change.SHOWN:
            self.changes.soon_for_all(self._keys(node))

    def tick(self) -> None:
        """Marks nodes as lost that passed their TTL; called once a second."""
        lost = self.fleet.newly_lost()
        for node in lost:
            log.warning("node lost node=%s", node.name)
            self.changed(node)
        before, self._ticked = self._ticked, self.fleet.clock()
        for node in self.fleet.nodes.values():
            leaves = (self.fleet.addressed(node) + after + LINK_TTL_S for after in self.tables.refuse_afters)
            if node.lost and any(before < at <= self._ticked for at in leaves):
                self.changed(node)
        if lost:
            self._publish(lost)

    def _publish(self, lost: list[Node]) -> None:
        for follower in self.followers:
            follower(lost)


def _give_order(node: Node) -> None:
    if node.link is not None:
        contested = bool(node.contested)
        node.link.put_message(NodeOrder(cordoned=node.cordoned, drained=node.drained, contested=contested))


def _is_in_force(row: Traffic, entry: TableEntry) -> bool:
    """Tells whether a row is about what its pointer's newest entry has: the live release or the candidate."""
    if row.generation != entry.generation:
        return False
    live = entry.current is not None and row.release == entry.current.id
    return live or (entry.candidate is not None and row.release == entry.candidate.release.id)


@dataclass(eq=False)
class Greeting:
    """Greets nodes. One that is ahead of the log is welcome, and gets no table; moves wait only if it can prove it.

    `_joined` is called last with every node and its hello: whoever gives nodes work answers there.
    """

    _fleet: Fleet
    _events: NodeEvents
    _recovery: Recovery
    _startup: Startup
    _pins: Pins
    _joined: Callable[[Node, Hello], None]
    _save: Callable[[], Awaitable[None]]
    """Writes what has changed of the fleet."""

    async def hello(self, hello: Hello, link: NodeLink, bound: Mapping[str, str] | None) -> tuple[Node, str | None]:
        """Keeps a hello. Returns its node, and the problem code of one that is not steered yet.

        What decides where pointers are placed is on the disk before the node is sent any: a hub that is started again
        must know who may answer.

        Raises: Refused: it cannot be written; `not_active`: another hub steers nodes.
        """
        standing = await self._recovery.standing(hello)
        node = self._events.linked(hello, link, bound)
        refuse = self._recovery.code(node.name, standing)
        node.behind = refuse or self._recovery.holds(node.name)
        if node.saved != node.placement:
            try:
                await self._save()
            except StoreError as error:
                fix = "make the hub's store writable; the node serves on and links again by itself"
                raise Refused(error.code, "the hub cannot write down this node", detail=str(error), fix=fix) from error
        return node, refuse

    async def contested(self, hello: Hello) -> tuple[Node, str | None]:
        """Greets an agent beside which another is linked as its node: its hello says only whether it is steered."""
        refuse = self._recovery.code(hello.node, await self._recovery.standing(hello))
        return self._fleet.known(hello.node), refuse

    def greeted(self, node: Node, hello: Hello, link: NodeLink, refuse: str | None) -> None:
        """Puts on the link what the node is owed beside its welcome."""
        if refuse is not None:
            self._recovery.greet(node, hello, link)
        else:
            self._startup.greeted(node.name)
            link.steer()
            for pin in hello.pins:
                if self._pins.is_over(node.name, pin):
                    link.put_unpin((pin.tenant, pin.route))
        self._pins.reported(node)
        link.put_message(NodeOrder(cordoned=node.cordoned, drained=node.drained))
        self._joined(node, hello)
