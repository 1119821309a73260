"""The nodes of the fleet in memory: who is linked, which releases each has loaded, what each has acknowledged.

The nodes and their replicas are also saved in the store, so that after a restart a node that does not come back is
counted as unreachable, and not forgotten.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from loradeck.hub.fleet.node import Node, NodeLink, Placement
from loradeck.rules.errors import Refused
from loradeck.rules.scheduling import gpu_faults
from loradeck.rules.serving.counting import is_cold, is_resting
from loradeck.rules.serving.placement import Site, fits
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.ids import Fence, PointerKey
from loradeck.schemas.link import Ack, Hello, Replica, Report
from loradeck.schemas.replica_state import LINK_TTL_S, LOST_S, AckLevel, AckState, EngineState
from loradeck.schemas.table import Pin
from loradeck.schemas.telemetry import Gpu, Host, NvmlState
from loradeck.schemas.training import TrainingProof

_REPLICA_FIELDS = set(Replica.model_fields)
_HOST_FIELDS = set(Host.model_fields)
"""One set for all models of a kind that are kept: each would hold one of its own."""

_UUID_CHARS, _MOST_FAULTS = 80, 64
"""Most characters of a GPU's UUID that are kept, and most faults of a node: a node may say anything."""

FLIPPED = frozenset({AckState.FLIPPED, AckState.PROVEN, AckState.LISTED})


@dataclass(slots=True)
class AckRecord:
    """The newest acknowledgement of one replica for one pointer. Times are the hub's monotonic clock, seconds."""

    fence: Fence
    release: str | None
    state: AckState
    code: str | None = None
    detail: str = ""
    flipped: float | None = None
    """Since when it serves the release without a break; None while it does not."""
    flipped_node_ms: int = 0
    first_flipped: float | None = None
    """When it first acknowledged the flip of this fence: kept when its engine or agent comes back and flips again."""
    flipped_mono_ns: int = 0
    """The router's clock at that first flip."""
    proven: float | None = None
    """Since when it is proven without a break; None while it is not."""
    first_proven: float | None = None
    """When it was first proven under this fence: kept when it is proven anew."""
    checked: float | None = None
    """When the newest proof, good or bad, was reported."""
    checked_boot: str | None = None
    """Boot of the engine of that proof; None: the newest was bad, or there is none."""
    level: AckLevel | None = None
    boot: str = ""
    """Boot of the engine that the newest acknowledgement speaks of; '': it did not say."""
    load: int | None = None

    @property
    def is_flipped(self) -> bool:
        """Whether the replica serves the release of this fence."""
        return self.flipped is not None

    @property
    def is_pinned(self) -> bool:
        """Whether its node is pinned to another release, whatever the hub wants."""
        return self.state is AckState.WAITING and self.code == "pinned"

    @property
    def is_resting(self) -> bool:
        """Whether it is no cause to worry although it has flipped and is not proven now."""
        return is_resting(level=self.level, boot=self.boot, checked_boot=self.checked_boot)


class Change(Enum):
    """The effect of a report on its node."""

    NOTHING = auto()
    SHOWN = auto()
    """Other releases are loaded, stored or pinned: rows change."""
    PLACED = auto()
    """Replicas, their bases, their slots or their states differ: placements change."""


@dataclass(slots=True, eq=False)
class Group:
    """The replicas of one base on the nodes that carry some labels.

    `version` grows when a replica joins or leaves the group, or a node of it is lost or found; not when one loads a
    release.
    """

    placement: dict[str, str]
    base: str
    nodes: dict[str, Node] = field(default_factory=dict)
    version: int = 0
    placed: tuple[tuple[Node, Replica], ...] | None = None

    def changed(self) -> None:
        """Notes that other replicas belong to the group now."""
        self.version += 1
        self.placed = None

    def holds(self, node: Node, replica: str) -> bool:
        """Tells whether a replica of a node belongs to the group."""
        if node.name in self.nodes:
            for one in node.replicas:  # a loop: `any` takes three times as long, for each acknowledgement
                if one.replica == replica:
                    return one.base == self.base
        return False


class Fleet:
    """All nodes and acknowledgements. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float], nodes: Iterable[Node] = ()) -> None:
        self.clock = clock
        self.started = clock()
        self.nodes: dict[str, Node] = {n.name: n for n in nodes}
        self._acks: dict[PointerKey, dict[str, AckRecord]] = {}
        self._where: dict[str, str] = {}
        self._groups: dict[tuple[frozenset[tuple[str, str]], str], Group] = {}
        self._groups_of: dict[str, set[Group]] = {}
        """Node -> the groups it is in, so that a report touches these only."""
        self._builds: dict[EngineBuild, EngineBuild] = {}
        self._bases: frozenset[str] | None = None
        self.unsaved: set[str] = set()
        """The nodes of which something that outlives the hub has changed since it was written."""
        self.voids = 0
        """Grows each time that acknowledgements are taken back."""
        for node in self.nodes.values():
            self._index(node)

    # ---- nodes ---------------------------------------------------------------------------------------------

    def _index(self, node: Node) -> None:
        for replica in node.replicas:
            self._where[replica.replica] = node.name

    def hello(self, hello: Hello, link: NodeLink) -> Node:
        """A node has linked: keeps what its hello reports, with this link in place of an older one."""
        new = hello.node not in self.nodes
        node = self.nodes.setdefault(hello.node, Node(hello.node))
        before = None if new or node.version != hello.version else _shape(node)
        node.link, node.contested = link, ()
        node.version, node.labels, node.boot = hello.version, dict(hello.labels), hello.boot
        node.rev, node.jobs_as_agent, node.recipes = hello.rev, hello.jobs_as_agent, hello.recipes
        node.training, node.backend, node.room = dict(hello.training), hello.backend, None
        self._void(node.replicas, hello.replicas)
        self._set_replicas(node, hello.replicas)
        self._set_pins(node, hello.pins)
        node.stored, node.memory_gb = frozenset(hello.stored), hello.memory_gb
        features = frozenset(hello.features)
        if (node.features, node.address) != (features, hello.address):
            node.features, node.address = features, hello.address
            self.unsaved.add(node.name)
        self.heard(node)
        self._regroup(node, before)
        return node

    def report(self, node: Node, report: Report) -> Change:
        """Keeps a node's report. Returns its effect."""
        node.nvml, node.rev, node.cold, node.room = report.nvml, report.rev, report.cold, report.room
        node.host = Host.model_construct(_HOST_FIELDS, **report.host.__dict__) if report.host is not None else None
        node.gpus = report.gpus
        stored = node.stored if report.stored is None else frozenset(report.stored)
        if report.stored_added or report.stored_gone:
            stored = stored.union(report.stored_added).difference(report.stored_gone)
        backend = report.backend or node.backend
        moved = (report.replicas, report.pins, stored, backend) != (node.replicas, node.pins, node.stored, node.backend)
        if not moved:
            return Change.NOTHING
        before, silent = _shape(node), node.silent
        node.stored, node.backend = stored, backend
        self._set_replicas(node, report.replicas)
        self._set_pins(node, report.pins)
        return Change.PLACED if self._regroup(node, before) or silent != node.silent else Change.SHOWN

    def _set_pins(self, node: Node, pins: tuple[Pin, ...]) -> None:
        if pins != node.pins:
            node.pins = pins
            self.unsaved.add(node.name)

    def _void(self, before: Iterable[Replica], now: Iterable[Replica]) -> None:
        """Takes back what was acknowledged on engines that ended while their node had no link."""
        alive = {r.replica: r.boot for r in now if r.state is EngineState.UP}
        for gone in (r.replica for r in before if alive.get(r.replica) != r.boot):
            for records in self._acks.values():
                record = records.get(gone)
                if record is not None:
                    self.voids += 1
                    record.state, record.code, record.detail = AckState.WAITING, "engine_down", ""
                    record.flipped, record.proven = None, None

    def _set_replicas(self, node: Node, replicas: tuple[Replica, ...]) -> None:
        bases = {known.replica: known.base for known in node.replicas}
        boots = {replica.replica: replica.boot for replica in replicas if replica.state is EngineState.UP}
        for gone in node.replicas:
            self._where.pop(gone.replica, None)
            if gone.replica in node.silent or boots.get(gone.replica) != gone.boot:
                node.ended[gone.replica] = self.clock()
        node.ended = {replica: at for replica, at in node.ended.items() if replica in boots or replica in bases}
        node.replicas = tuple(self._shared(replica, bases.get(replica.replica)) for replica in replicas)
        silent = frozenset(replica.replica for replica in replicas if not replica.answers)
        if silent != node.silent:
            node.silent = silent
            self._members_changed(node)
        self._index(node)

    def _shared(self, replica: Replica, known: str | None) -> Replica:
        """A copy of a replica whose strings and build are shared with those of other nodes: 2 kB a node otherwise.

        `known`: the base that it ran last. An agent that has just started may not know it yet, while its router answers
        on.
        """
        build, base = replica.build, replica.base or known
        return Replica.model_construct(
            _REPLICA_FIELDS,
            **replica.__dict__
            | {
                "base": None if base is None else sys.intern(base),
                "base_name": sys.intern(replica.base_name),
                "build": None if build is None else self._builds.setdefault(build, build),
                "loaded": tuple(map(sys.intern, replica.loaded)),
            },
        )

    def heard(self, node: Node) -> None:
        """A node has sent something: it is not lost, and its TTL begins anew."""
        node.heard = self.clock()
        if node.lost:
            node.lost = False
            self.unsaved.add(node.name)
            self._members_changed(node)

    def unlinked(self, node: Node, link: NodeLink) -> bool:
        """A link has ended. Returns whether it was its node's current one."""
        if node.link is not link:
            return False
        node.link, node.contested = None, ()
        return True

    def newly_lost(self) -> list[Node]:
        """Nodes that have been silent for too long since the last call: for `LOST_S`, or, if they were not heard since
        the hub's start, for `LINK_TTL_S` from then.
        """
        lost = [n for n in self.nodes.values() if not n.lost and self.silent_s(n) > self._patience_s(n)]
        for node in lost:
            self.lose(node)
        return lost

    def silent_s(self, node: Node) -> float:
        """Seconds since a node last sent something, or since the hub's start."""
        return self.clock() - max(node.heard or self.started, self.started)

    def _patience_s(self, node: Node) -> float:
        return LINK_TTL_S if node.heard is None or node.heard < self.started else LOST_S

    def lose(self, node: Node) -> None:
        """Marks a node as lost: it has been silent for too long."""
        node.lost = True
        self.unsaved.add(node.name)
        self._members_changed(node)

    def forget(self, node: Node) -> None:
        """Forgets a node that has no link, with all that it has acknowledged."""
        del self.nodes[node.name]
        self.unsaved.add(node.name)
        self._bases = None
        for group in self._groups_of.pop(node.name, ()):
            del group.nodes[node.name]
            group.changed()
        for replica in node.replicas:
            self._where.pop(replica.replica, None)
            for records in self._acks.values():
                self.voids += records.pop(replica.replica, None) is not None

    def heard_age(self, node: Node) -> float | None:
        """Seconds since a node last sent something; None: not since the hub started."""
        return None if node.heard is None else max(0.0, self.clock() - node.heard)

    def addressed(self, node: Node) -> float:
        """When a node was last sent anything: where that is not known, the hub's start, since an earlier hub may have
        sent something until then."""
        return max(node.addressed or self.started, self.started)

    def known(self, name: str) -> Node:
        """The node of a name. Raises: Refused `unknown_node`."""
        if name not in self.nodes:
            raise Refused("unknown_node", f"there is no node {name!r}", fix="loradeck node ls")
        return self.nodes[name]

    def node_of(self, replica: str) -> str | None:
        """The name of the node that a replica was last seen on."""
        return self._where.get(replica)

    def allow(self, node: Node, labels: dict[str, str]) -> None:
        """Notes what a node may be placed by from its next hello on."""
        node.allowed = labels
        self.unsaved.add(node.name)

    def cordon_failing(self, node: Node, gpus: Iterable[Gpu], nvml: NvmlState) -> frozenset[str]:
        """Cordons a node for GPUs that fail and did not at its last report; returns them, with why.

        Whoever ends the cordon has seen these; it comes again for others, or once they were well in between. That they
        are is believed of an NVML that is well: a report of another may lack their figures.
        """
        found = {f"{gpu.uuid[:_UUID_CHARS]}: {why}" for gpu in gpus for why in gpu_faults(gpu)}
        if nvml is not NvmlState.OK:
            found |= node.failing
        now = frozenset(sorted(found)[:_MOST_FAULTS])
        new = now - node.failing
        if now != node.failing:
            node.failing = now
            self.unsaved.add(node.name)
        if new:
            node.cordoned_for = node.cordoned_for & now | new
            self.order(node, cordoned=True, drained=None)
        return new

    def cordon_bad(self, node: Node, why: str, at_ms: int) -> None:
        """Cordons a node that answers badly for everybody on it, as a guard has found. `at_ms`: the hub's time."""
        node.blamed, node.blamed_ms = why, at_ms
        self.order(node, cordoned=True, drained=None)

    def cordoned_by_guard(self) -> list[str]:
        """Lists the nodes that a guard has cordoned and that nobody has let in again."""
        return [node.name for node in self.nodes.values() if node.blamed]

    def prove(self, name: str, proof: TrainingProof) -> None:
        """Keeps what a trial of training on a node has measured."""
        if node := self.nodes.get(name):
            node.proof = proof
            self.unsaved.add(name)

    def order(self, node: Node, *, cordoned: bool, drained: bool | None) -> None:
        """Cordons or drains a node, or ends that. `drained` None leaves it as it is."""
        node.cordoned = cordoned
        node.drained = node.drained if drained is None else drained
        if not cordoned:
            node.cordoned_for, node.blamed = frozenset(), ""
        self.unsaved.add(node.name)
        self._members_changed(node)

    # ---- placement -----------------------------------------------------------------------------------------

    def _members_changed(self, node: Node) -> None:
        for group in self._groups_of.get(node.name, ()):
            group.changed()

    def _regroup(self, node: Node, before: Shape | None) -> bool:
        """Puts a node into its groups. Returns whether anything but its loaded releases changed."""
        mine = self._groups_of.setdefault(node.name, set())
        for group in mine:
            group.placed = None  # it holds the node's replicas as they were
        now = _shape(node)
        if now == before:
            return False
        self.unsaved.add(node.name)
        if before is not None and now[0] == before[0]:
            return True
        self._bases = None
        for group in self._groups.values():
            inside = _belongs(node, group)
            if inside or group in mine:
                group.changed()
            if inside:
                group.nodes[node.name] = node
                mine.add(group)
            elif group in mine:
                del group.nodes[node.name]
                mine.remove(group)
        return True

    def group(self, placement: Mapping[str, str], base: str) -> Group:
        """The replicas of a base on the nodes that carry these labels. The group is kept up to date."""
        name = (frozenset(placement.items()), base)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(dict(placement), base)
            for node in self.nodes.values():
                if _belongs(node, group):
                    group.nodes[node.name] = node
                    self._groups_of.setdefault(node.name, set()).add(group)
        return group

    def placed(self, site: Site, base: str) -> tuple[tuple[Node, Replica], ...]:
        """The replicas of a base on the nodes of a site, unreachable and drained ones too: they may answer."""
        if site.nodes is not None:  # few, and others for each route: no group is kept for them
            nodes = (node for name in sorted(site.nodes) if (node := self.nodes.get(name)) is not None)
            return tuple((node, replica) for node in nodes for replica in node.replicas if replica.base == base)
        group = self.group(site.labels, base)
        if group.placed is None:
            group.placed = tuple(
                (node, replica)
                for _, node in sorted(group.nodes.items())
                for replica in node.replicas
                if replica.base == base
            )
        return group.placed

    def one_base(self, base: str) -> bool:
        """Tells whether every engine of the fleet runs this base, so that no move leaves a replica behind."""
        if self._bases is None:
            self._bases = frozenset(r.base for node in self.nodes.values() for r in node.replicas if r.base)
        return len(self._bases) < 2 and (base in self._bases or not self._bases)

    def left_behind(self, key: PointerKey, fence: Fence, site: Site, base: str) -> tuple[tuple[Node, Replica], ...]:
        """The replicas of another base that a pointer is left on: their nodes have no engine of the `base` it moved to.

        Their router reports it (it waits, and the gap policy holds), and may answer with the release that was left. One
        that served the pointer before and has not acknowledged this `fence` yet answers with it in any case.
        """
        if self.one_base(base):  # as in most fleets: then this costs nothing
            return ()
        behind = []
        for name, ack in self._acks.get(key, {}).items():
            served = ack.is_flipped and ack.release is not None  # a tombstone leaves nothing to answer with
            left = ack.state is AckState.WAITING if ack.fence == fence else served
            node = self.nodes.get(self._where.get(name, "")) if left else None
            if node is None or not site.holds(node.name, node.labels):
                continue
            replica = next(r for r in node.replicas if r.replica == name)
            answers = node.lost or replica.state is EngineState.UP
            if answers and all(r.base != base for r in node.replicas):
                behind.append((node, replica))
        return tuple(sorted(behind, key=lambda found: found[1].replica))

    # ---- acknowledgements ----------------------------------------------------------------------------------

    def ack(self, ack: Ack, current: Fence, wanted: str | None) -> AckRecord | None:
        """Keeps the newest acknowledgement of each replica, and returns what is kept of this one.

        None, and nothing is changed: it is not of the pointer's `current` (epoch, generation). A replica that
        acknowledges another release than the `wanted` one has not flipped.
        """
        fence = (ack.epoch, ack.generation)
        if fence != current:
            return None
        now, replica, release = self.clock(), ack.replica, ack.release
        state, code, detail = ack.state, ack.code, ack.detail
        if state in FLIPPED and release != wanted:
            state, code, detail = AckState.FAILED, "wrong_release", f"acknowledged {release}, not {wanted}"
        records = self._acks.setdefault((ack.tenant, ack.route), {})
        record = records.get(replica)
        if record is None or record.fence != fence or record.release != release:
            record = records[replica] = AckRecord(fence, release, state)
        cold = state is AckState.FLIPPED and is_cold(ack.level)
        if state is not AckState.FLIPPED or record.flipped is None or record.state is AckState.FLIPPED or cold:
            # A flip sent again after a reconnect takes nothing back from a proof; a cold one does.
            record.state, record.code, record.detail = state, code, detail
        record.level, record.boot, record.load = ack.level, ack.boot, ack.load
        if record.flipped is None and state in FLIPPED:
            record.flipped, record.flipped_node_ms = now, ack.at_ms
            if record.first_flipped is None:
                record.first_flipped, record.flipped_mono_ns = now, ack.mono_ns
        if cold:
            record.proven = None
        if state is AckState.WAITING or code == "wrong_release":
            record.flipped, record.proven = None, None
        if state in (AckState.PROVEN, AckState.LISTED, AckState.FAILED):
            record.checked = now
            record.checked_boot = ack.boot if state is not AckState.FAILED else None
            if state is not AckState.PROVEN:
                record.proven = None
            elif record.proven is None:
                record.proven = now
                if record.first_proven is None:
                    record.first_proven = now
        return record

    def joins(self, key: PointerKey, nodes: Collection[str]) -> None:
        """Nodes are to serve a pointer: what they acknowledged when they served it before counts no more."""
        records = self._acks.get(key, {})
        for replica in [name for name in records if self._where.get(name) in nodes]:
            del records[replica]
            self.voids += 1

    def ack_of(self, key: PointerKey, replica: str, fence: Fence) -> AckRecord | None:
        """The newest acknowledgement of one replica for this (epoch, generation); None: it sent none."""
        record = self._acks.get(key, {}).get(replica)
        return record if record is not None and record.fence == fence else None

    def acks(self, key: PointerKey, fence: Fence) -> dict[str, AckRecord]:
        """Replica -> its newest acknowledgement for this (epoch, generation)."""
        return {r: a for r, a in self._acks.get(key, {}).items() if a.fence == fence}

    def linked(self) -> Iterator[Node]:
        """The nodes that have a link now."""
        return (n for n in self.nodes.values() if n.link is not None)


Shape = tuple[Placement, tuple[tuple[EngineState, int], ...]]


def _shape(node: Node) -> Shape:
    """Its placement, and the states and slots of its replicas, which are saved too."""
    return node.placement, tuple((r.state, r.slots) for r in node.replicas)


def _belongs(node: Node, group: Group) -> bool:
    return any(r.base == group.base for r in node.replicas) and fits(node.labels, group.placement)
