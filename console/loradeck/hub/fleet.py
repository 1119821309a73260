"""The nodes as this hub hears them, in memory: who is linked, what is loaded where, how far each pointer is.

Which nodes there are and what they carry is also kept in the store, so that after a restart a node that does
not come back is counted as unreachable, and not forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loradeck.rules.placement import fits
from loradeck.schemas.link import LINK_TTL_S, Ack, AckState, EngineState, Hello, Replica, Report
from loradeck.schemas.table import Pin
from loradeck.schemas.telemetry import Gpu, Host, NvmlState

if TYPE_CHECKING:
    from loradeck.hub.link import Link

Key = tuple[str, str]
Fence = tuple[int, int]

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
    gpus: tuple[Gpu, ...] = ()
    nvml: NvmlState = NvmlState.STARTING
    stored: frozenset[str] = frozenset()
    """Adapters on its disk, by digest."""
    memory_gb: float | None = None
    heard: float | None = None
    link: Link | None = None
    lost: bool = False
    cordoned: bool = False
    drained: bool = False
    behind: str | None = None
    boot: str = ""

    @property
    def linked(self) -> bool:
        return self.link is not None

    def kept(self) -> dict[str, Any]:
        """What outlives the hub."""
        return {
            "version": self.version,
            "labels": self.labels,
            "replicas": [[r.replica, r.base, r.slots] for r in self.replicas],
            "cordoned": self.cordoned,
            "drained": self.drained,
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
    def is_proven(self) -> bool:
        return self.state in (AckState.PROVEN, AckState.LISTED)


class Fleet:
    """All nodes and acknowledgements. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float], nodes: Iterable[Node] = ()) -> None:
        self.clock = clock
        self.started = clock()
        self.nodes: dict[str, Node] = {n.name: n for n in nodes}
        self._acks: dict[Key, dict[str, AckRecord]] = {}
        self._where: dict[str, str] = {}
        self._placed: dict[tuple[frozenset[tuple[str, str]], str], tuple[tuple[Node, Replica], ...]] = {}
        self._bases: frozenset[str] | None = None
        self.version = 0
        """Grows whenever something changed that placement or a preview depends on."""
        for node in self.nodes.values():
            self._index(node)

    # ---- nodes ---------------------------------------------------------------------------------------------

    def _index(self, node: Node) -> None:
        for replica in node.replicas:
            self._where[replica.replica] = node.name

    def hello(self, hello: Hello, link: Link) -> Node:
        """A node has linked. It replaces an older link of the same node."""
        node = self.nodes.setdefault(hello.node, Node(hello.node))
        node.link = link
        node.version, node.labels, node.boot = hello.version, dict(hello.labels), hello.boot
        self._void(node.replicas, hello.replicas)
        self._set_replicas(node, hello.replicas)
        node.pins = hello.pins
        node.stored, node.memory_gb = frozenset(hello.stored), hello.memory_gb
        self.heard(node)
        self._changed()
        return node

    def report(self, node: Node, report: Report) -> bool:
        """A node's telemetry; whether replicas, pins or what lies on its disk changed."""
        stored = node.stored if report.stored is None else frozenset(report.stored)
        moved = (report.replicas, report.pins, stored) != (node.replicas, node.pins, node.stored)
        if moved:
            node.stored = stored
            self._set_replicas(node, report.replicas)
            node.pins = report.pins
            self._changed()
        node.host, node.gpus, node.nvml = report.host, report.gpus, report.nvml
        return moved

    def _void(self, before: Iterable[Replica], now: Iterable[Replica]) -> None:
        """Take back what was acknowledged on engines that did not live through the time without a link."""
        alive = {r.replica: r.boot for r in now if r.state is EngineState.UP}
        for gone in (r.replica for r in before if alive.get(r.replica) != r.boot):
            for records in self._acks.values():
                record = records.get(gone)
                if record is not None:
                    record.state, record.code, record.detail = AckState.WAITING, "engine_down", ""
                    record.flipped, record.proven = None, None

    def _set_replicas(self, node: Node, replicas: tuple[Replica, ...]) -> None:
        for gone in node.replicas:
            self._where.pop(gone.replica, None)
        node.replicas = replicas
        self._index(node)

    def heard(self, node: Node) -> None:
        node.heard = self.clock()
        if node.lost:
            node.lost = False
            self._changed()

    def unlinked(self, node: Node, link: Link) -> bool:
        """A link has ended; whether it was the node's current one."""
        if node.link is not link:
            return False
        node.link = None
        self._changed()
        return True

    def newly_lost(self) -> list[Node]:
        """Nodes that passed their TTL since the last call. None does within one TTL of the hub's start."""
        limit = self.clock() - LINK_TTL_S
        lost = [n for n in self.nodes.values() if not n.lost and max(n.heard or self.started, self.started) < limit]
        for node in lost:
            node.lost = True
        if lost:
            self._changed()
        return lost

    def heard_age(self, node: Node) -> float | None:
        return None if node.heard is None else max(0.0, self.clock() - node.heard)

    def node_of(self, replica: str) -> str | None:
        """Name of the node that a replica was last seen on."""
        return self._where.get(replica)

    def order_changed(self) -> None:
        self._changed()

    def _changed(self) -> None:
        self.version += 1
        self._placed.clear()
        self._bases = None

    # ---- placement -----------------------------------------------------------------------------------------

    def placed(self, placement: dict[str, str], base: str) -> tuple[tuple[Node, Replica], ...]:
        """Replicas of a base on the nodes that carry these labels, unreachable ones too.

        A drained node counts as long as it is heard from: until then it may still answer.
        """
        name = (frozenset(placement.items()), base)
        found = self._placed.get(name)
        if found is None:
            found = self._placed[name] = tuple(
                (node, replica)
                for node in sorted(self.nodes.values(), key=lambda n: n.name)
                if fits(node.labels, placement) and not (node.drained and node.lost)
                for replica in node.replicas
                if replica.base == base
            )
        return found

    def left_behind(
        self, placement: dict[str, str], base: str, acks: Mapping[str, AckRecord]
    ) -> tuple[tuple[Node, Replica], ...]:
        """Replicas of another base that a pointer is left on: its node has no engine of the `base` it moved to.

        Their router says so itself (it waits, and the gap policy holds), and may answer with the left release.
        """
        if self._bases is None:
            self._bases = frozenset(r.base for node in self.nodes.values() for r in node.replicas if r.base)
        if self._bases <= {base}:  # as in most fleets: then this costs nothing
            return ()
        behind = []
        for name, ack in acks.items():
            node = self.nodes.get(self._where.get(name, "")) if ack.state is AckState.WAITING else None
            if node is None or not fits(node.labels, placement):
                continue
            replica = next(r for r in node.replicas if r.replica == name)
            answers = node.lost or replica.state is EngineState.UP
            if answers and all(r.base != base for r in node.replicas) and not (node.drained and node.lost):
                behind.append((node, replica))
        return tuple(sorted(behind, key=lambda found: found[1].replica))

    # ---- acknowledgements ----------------------------------------------------------------------------------

    def ack(self, ack: Ack, wanted: str | None) -> AckRecord:
        """Keep the newest per replica; the caller has checked that its fence is the current one.

        A replica that says it flipped to another release than the `wanted` one has not flipped.
        """
        now = self.clock()
        records = self._acks.setdefault((ack.tenant, ack.route), {})
        fence = (ack.epoch, ack.generation)
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

    def acks(self, key: Key, fence: Fence) -> dict[str, AckRecord]:
        """Replica -> how far it is with this (epoch, generation)."""
        return {r: a for r, a in self._acks.get(key, {}).items() if a.fence == fence}

    def linked(self) -> Iterator[Node]:
        return (n for n in self.nodes.values() if n.link is not None)
