"""The nodes as this hub hears them, in memory: who is linked, what is loaded where, how far each pointer is.

Which nodes there are and what they carry is also kept in the store, so that after a restart a node that does
not come back is counted as unreachable, and not forgotten.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from loradeck.rules.serving.placement import fits
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import LINK_TTL_S, Ack, AckState, EngineState, Hello, Replica, Report
from loradeck.schemas.table import Pin
from loradeck.schemas.telemetry import Gpu, Host, NvmlState

if TYPE_CHECKING:
    from loradeck.hub.fleet.link import Link


Fence = tuple[int, int]

_gpus = TypeAdapter(tuple[Gpu, ...])
_REPLICA_FIELDS = set(Replica.model_fields)
_HOST_FIELDS = set(Host.model_fields)
"""One set for all models of a kind that are kept: each would hold one of its own."""

FLIPPED = frozenset({AckState.FLIPPED, AckState.PROVEN, AckState.LISTED})


@dataclass(slots=True)
class Node:
    """`heard` is the hub's monotonic clock; None: not since the hub started."""

    name: str
    version: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    replicas: tuple[Replica, ...] = ()
    pins: tuple[Pin, ...] = ()
    host: Host | None = None
    gpus_json: bytes = b"[]"
    """What it said of its GPUs last, as JSON: as models the figures of eight would take a fifth of a node's memory."""
    nvml: NvmlState = NvmlState.STARTING
    stored: frozenset[str] = frozenset()
    """Adapters on its disk, by digest."""
    memory_gb: float | None = None
    heard: float | None = None
    link: Link | None = None
    lost: bool = False
    was_lost: bool = False
    """It was lost when the hub's last life ended."""
    cordoned: bool = False
    drained: bool = False
    behind: str | None = None
    boot: str = ""

    @property
    def linked(self) -> bool:
        return self.link is not None

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        return _gpus.validate_json(self.gpus_json)

    def kept(self) -> dict[str, Any]:
        """What outlives the hub."""
        return {
            "version": self.version,
            "labels": self.labels,
            "replicas": [[r.replica, r.base, r.slots] for r in self.replicas],
            "cordoned": self.cordoned,
            "drained": self.drained,
            "lost": self.lost,
            "pins": [pin.model_dump(mode="json") for pin in self.pins],
        }

    @classmethod
    def of(cls, name: str, kept: dict[str, Any]) -> Node:
        return cls(
            name=name,
            version=kept["version"],
            labels=kept["labels"],
            replicas=tuple(
                Replica(replica=r, state=EngineState.DOWN, base=base, slots=slots)
                for r, base, slots in kept["replicas"]
            ),
            cordoned=kept["cordoned"],
            drained=kept["drained"],
            was_lost=kept.get("lost", False),
            pins=tuple(Pin.model_validate(pin) for pin in kept.get("pins", ())),
        )


@dataclass(slots=True)
class AckRecord:
    """How far one replica is with one pointer. Times are the hub's monotonic clock, seconds."""

    fence: Fence
    release: str | None
    state: AckState
    code: str | None = None
    detail: str = ""
    flipped: float | None = None
    flipped_node_ms: int = 0
    flipped_mono_ns: int = 0
    proven: float | None = None
    checked: float | None = None
    """When the last proof, good or bad, was heard of."""

    @property
    def is_flipped(self) -> bool:
        return self.flipped is not None

    @property
    def is_pinned(self) -> bool:
        """Its node has been told to serve another release, whatever the hub wants."""
        return self.state is AckState.WAITING and self.code == "pinned"

    @property
    def is_proven(self) -> bool:
        return self.state in (AckState.PROVEN, AckState.LISTED)


class Change(Enum):
    """What a report changed of its node."""

    NOTHING = auto()
    SHOWN = auto()
    """What is loaded, stored or pinned: rows are to be put together anew."""
    PLACED = auto()
    """Which replicas there are, of which base, with how many slots, and whether they are up."""


@dataclass(slots=True, eq=False)
class Group:
    """The replicas of one base on the nodes that carry some labels. `version` grows with every change of who is
    in it, or of who of them is lost; not with what they load."""

    placement: dict[str, str]
    base: str
    nodes: dict[str, Node] = field(default_factory=dict)
    version: int = 0
    placed: tuple[tuple[Node, Replica], ...] | None = None

    def changed(self) -> None:
        self.version += 1
        self.placed = None

    def holds(self, node: Node, replica: str) -> bool:
        """Whether a replica of a node is placed here."""
        if node.name not in self.nodes or (node.drained and node.lost):
            return False
        return any(r.replica == replica and r.base == self.base for r in node.replicas)


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
        self.kept_version = 0
        """Grows whenever something changed that outlives the hub."""
        self.voids = 0
        """Grows whenever acknowledgements were taken back."""
        for node in self.nodes.values():
            self._index(node)

    # ---- nodes ---------------------------------------------------------------------------------------------

    def _index(self, node: Node) -> None:
        for replica in node.replicas:
            self._where[replica.replica] = node.name

    def hello(self, hello: Hello, link: Link) -> Node:
        """A node has linked. It replaces an older link of the same node."""
        new = hello.node not in self.nodes
        node = self.nodes.setdefault(hello.node, Node(hello.node))
        before = None if new or node.version != hello.version else _shape(node)
        node.link = link
        node.version, node.labels, node.boot = hello.version, dict(hello.labels), hello.boot
        self._void(node.replicas, hello.replicas)
        self._set_replicas(node, hello.replicas)
        self._set_pins(node, hello.pins)
        node.stored, node.memory_gb = frozenset(hello.stored), hello.memory_gb
        self.heard(node)
        self._regroup(node, before)
        return node

    def report(self, node: Node, report: Report) -> Change:
        """A node's telemetry; what it changed."""
        node.nvml = report.nvml
        node.host = Host.model_construct(_HOST_FIELDS, **report.host.__dict__) if report.host is not None else None
        node.gpus_json = _gpus.dump_json(report.gpus, exclude_defaults=True)
        stored = node.stored if report.stored is None else frozenset(report.stored)
        moved = (report.replicas, report.pins, stored) != (node.replicas, node.pins, node.stored)
        if not moved:
            return Change.NOTHING
        before = _shape(node)
        node.stored = stored
        self._set_replicas(node, report.replicas)
        self._set_pins(node, report.pins)
        return Change.PLACED if self._regroup(node, before) else Change.SHOWN

    def _set_pins(self, node: Node, pins: tuple[Pin, ...]) -> None:
        if pins != node.pins:
            node.pins = pins
            self.kept_version += 1

    def _void(self, before: Iterable[Replica], now: Iterable[Replica]) -> None:
        """Take back what was acknowledged on engines that did not live through the time without a link."""
        alive = {r.replica: r.boot for r in now if r.state is EngineState.UP}
        for gone in (r.replica for r in before if alive.get(r.replica) != r.boot):
            for records in self._acks.values():
                record = records.get(gone)
                if record is not None:
                    self.voids += 1
                    record.state, record.code, record.detail = AckState.WAITING, "engine_down", ""
                    record.flipped, record.proven = None, None

    def _set_replicas(self, node: Node, replicas: tuple[Replica, ...]) -> None:
        for gone in node.replicas:
            self._where.pop(gone.replica, None)
        node.replicas = tuple(map(self._shared, replicas))
        self._index(node)

    def _shared(self, replica: Replica) -> Replica:
        """Copies a replica so that values equal on many nodes are one object, which saves 2 kB a node."""
        build = replica.build
        return Replica.model_construct(
            _REPLICA_FIELDS,
            **replica.__dict__
            | {
                "base": None if replica.base is None else sys.intern(replica.base),
                "base_name": sys.intern(replica.base_name),
                "build": None if build is None else self._builds.setdefault(build, build),
                "loaded": tuple(map(sys.intern, replica.loaded)),
            },
        )

    def heard(self, node: Node) -> None:
        node.heard = self.clock()
        if node.lost:
            node.lost = False
            self.kept_version += 1
            self._members_changed(node)

    def unlinked(self, node: Node, link: Link) -> bool:
        """A link has ended; whether it was the node's current one."""
        if node.link is not link:
            return False
        node.link = None
        return True

    def newly_lost(self) -> list[Node]:
        """Nodes that passed their TTL since the last call. None does within one TTL of the hub's start."""
        limit = self.clock() - LINK_TTL_S
        lost = [n for n in self.nodes.values() if not n.lost and max(n.heard or self.started, self.started) < limit]
        for node in lost:
            self.lose(node)
        return lost

    def lose(self, node: Node) -> None:
        """A node passed its TTL."""
        node.lost = True
        self.kept_version += 1
        self._members_changed(node)

    def heard_age(self, node: Node) -> float | None:
        return None if node.heard is None else max(0.0, self.clock() - node.heard)

    def node_of(self, replica: str) -> str | None:
        """Name of the node that a replica was last seen on."""
        return self._where.get(replica)

    def order_changed(self, node: Node) -> None:
        """A node was drained, cordoned or taken back."""
        self.kept_version += 1
        self._members_changed(node)

    # ---- placement -----------------------------------------------------------------------------------------

    def _members_changed(self, node: Node) -> None:
        for group in self._groups_of.get(node.name, ()):
            group.changed()

    def _regroup(self, node: Node, before: Shape | None) -> bool:
        """Put a node where it belongs now; whether anything changed but what it has loaded."""
        mine = self._groups_of.setdefault(node.name, set())
        for group in mine:
            group.placed = None  # it holds the node's replicas as they were
        now = _shape(node)
        if now == before:
            return False
        self.kept_version += 1
        if before is not None and now[:2] == before[:2]:
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

    def group(self, placement: dict[str, str], base: str) -> Group:
        """The replicas of a base on the nodes that carry these labels; it is kept up to date."""
        name = (frozenset(placement.items()), base)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(dict(placement), base)
            for node in self.nodes.values():
                if _belongs(node, group):
                    group.nodes[node.name] = node
                    self._groups_of.setdefault(node.name, set()).add(group)
        return group

    def placed(self, placement: dict[str, str], base: str) -> tuple[tuple[Node, Replica], ...]:
        """Replicas of a base on the nodes that carry these labels, unreachable ones too.

        A drained node counts as long as it is heard from: until then it may still answer.
        """
        group = self.group(placement, base)
        if group.placed is None:
            group.placed = tuple(
                (node, replica)
                for _, node in sorted(group.nodes.items())
                if not (node.drained and node.lost)
                for replica in node.replicas
                if replica.base == base
            )
        return group.placed

    def one_base(self, base: str) -> bool:
        """Whether no engine of the fleet runs another base, so that no move leaves a replica behind."""
        if self._bases is None:
            self._bases = frozenset(r.base for node in self.nodes.values() for r in node.replicas if r.base)
        return self._bases <= {base}

    def left_behind(
        self, key: PointerKey, fence: Fence, placement: dict[str, str], base: str
    ) -> tuple[tuple[Node, Replica], ...]:
        """Replicas of another base that a pointer is left on: its node has no engine of the `base` it moved to.

        Their router says so itself (it waits, and the gap policy holds), and may answer with the left release. One
        that served the pointer before and has said nothing of this `fence` yet answers with it in any case.
        """
        if self.one_base(base):  # as in most fleets: then this costs nothing
            return ()
        behind = []
        for name, ack in self._acks.get(key, {}).items():
            left = ack.state is AckState.WAITING if ack.fence == fence else ack.is_flipped
            node = self.nodes.get(self._where.get(name, "")) if left else None
            if node is None or not fits(node.labels, placement):
                continue
            replica = next(r for r in node.replicas if r.replica == name)
            answers = node.lost or replica.state is EngineState.UP
            if answers and all(r.base != base for r in node.replicas) and not (node.drained and node.lost):
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
        now = self.clock()
        records = self._acks.setdefault((ack.tenant, ack.route), {})
        if ack.state in FLIPPED and ack.release != wanted:
            detail = f"acknowledged {ack.release}, not {wanted}"
            ack = ack.model_copy(update={"state": AckState.FAILED, "code": "wrong_release", "detail": detail})
        record = records.get(ack.replica)
        if record is None or record.fence != fence or record.release != ack.release:
            record = records[ack.replica] = AckRecord(fence, ack.release, ack.state)
        already = ack.state is AckState.FLIPPED and record.flipped is not None
        if not already:  # said again after a reconnect: it takes nothing back from a proof
            record.state, record.code, record.detail = ack.state, ack.code, ack.detail
        if ack.state in FLIPPED and record.flipped is None:
            record.flipped, record.flipped_node_ms, record.flipped_mono_ns = now, ack.at_ms, ack.mono_ns
        if ack.state is AckState.WAITING or ack.code == "wrong_release":
            record.flipped, record.proven = None, None
        if ack.state in (AckState.PROVEN, AckState.LISTED):
            record.proven = record.proven if record.proven is not None else now
            record.checked = now
        if ack.state is AckState.FAILED:
            record.proven, record.checked = None, now
        return record

    def ack_of(self, key: PointerKey, replica: str, fence: Fence) -> AckRecord | None:
        """How far one replica is with this (epoch, generation)."""
        record = self._acks.get(key, {}).get(replica)
        return record if record is not None and record.fence == fence else None

    def acks(self, key: PointerKey, fence: Fence) -> dict[str, AckRecord]:
        """Replica -> how far it is with this (epoch, generation)."""
        return {r: a for r, a in self._acks.get(key, {}).items() if a.fence == fence}

    def linked(self) -> Iterator[Node]:
        return (n for n in self.nodes.values() if n.link is not None)


Shape = tuple[dict[str, str], tuple[tuple[str, str | None], ...], tuple[tuple[EngineState, int], ...]]


def _shape(node: Node) -> Shape:
    """What placement depends on (labels, replicas and their bases), and what more is kept or says who is reachable."""
    replicas = node.replicas
    return node.labels, tuple((r.replica, r.base) for r in replicas), tuple((r.state, r.slots) for r in replicas)


def _belongs(node: Node, group: Group) -> bool:
    return any(r.base == group.base for r in node.replicas) and fits(node.labels, group.placement)
