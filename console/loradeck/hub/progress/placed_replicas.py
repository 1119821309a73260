"""The replicas that each pointer is placed on, and how far they are: where acknowledgements count."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import AckRecord, Fence, Fleet, Group, Node
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.progress.replica_counts import Progress, ReplicaCounts, share
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack, AckState, Replica
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import ReleaseRef, TableEntry


@dataclass(slots=True)
class _Kept:
    """Counts, and the circumstances that they hold for: they are made anew once one of these is another."""

    counts: ReplicaCounts
    config: RouteConfig
    fence: Fence
    base: str
    group: Group
    version: int
    """The group's, when the counts were made."""
    voids: int
    """How many acknowledgements had been taken back in the whole fleet."""


class Counted(Enum):
    """The effect of an acknowledgement on the counts of its pointer."""

    IGNORED = auto()
    """It is not of the pointer's current generation: nothing changed."""
    COUNTED = auto()
    """The counts are up to date."""
    STALE = auto()
    """Placed replicas have changed too: the counts are made anew when they are next read."""


@dataclass(eq=False)
class PlacedReplicas:
    """Placed replicas, acknowledgements and their counts, by pointer."""

    _state: FoldedLog
    _fleet: Fleet
    _tables: NodeTables
    _withdrawals: Withdrawals
    _counts: dict[PointerKey, _Kept] = field(default_factory=dict, init=False)

    def placed(self, key: PointerKey) -> tuple[tuple[Node, Replica], ...]:
        """The replicas that belong to a pointer's count: those that may answer for it, unreachable ones too."""
        return (*self.serving(key), *self.withdrawn(key))

    def withdrawn(self, key: PointerKey) -> tuple[tuple[Node, Replica], ...]:
        """The replicas that a pointer was withdrawn from, and that have not acknowledged it."""
        entry = self._tables.entries.get(key)
        if entry is None or entry.current is None or not self._withdrawals.of(key):
            return ()
        placing = self._state.config(key).placement, entry.current.release.served_base
        serving = {node.name for node, _ in self.serving(key)}
        return tuple(found for found in self._withdrawals.replicas(key, placing) if found[0].name not in serving)

    def serving(self, key: PointerKey) -> tuple[tuple[Node, Replica], ...]:
        """The replicas that a pointer's current release is placed on or left behind, unreachable ones too."""
        entry = self._tables.entries.get(key)
        if entry is None or entry.current is None:
            return ()
        placement, base = self._state.config(key).placement, entry.current.release.served_base
        left_behind = self._fleet.left_behind(key, entry.fence, placement, base)
        return (*self._fleet.placed(placement, base), *left_behind)

    def acks(self, key: PointerKey) -> dict[str, AckRecord]:
        """Replica -> its newest acknowledgement for the pointer's current generation."""
        entry = self._tables.entries.get(key)
        return self._fleet.acks(key, entry.fence) if entry else {}

    def progress(self, key: PointerKey) -> Progress:
        """The number of placed replicas at each stage of the pointer's current generation."""
        entry = self._tables.entries.get(key)
        kept = self._kept(key, entry)
        if kept is not None:
            return kept.counts.progress()
        counts = ReplicaCounts(self.placed(key), self.acks(key))
        if entry is not None and entry.current is not None and self._can_keep(key, entry.current):
            config, base = self._state.config(key), entry.current.release.served_base
            group = self._fleet.group(config.placement, base)
            self._counts[key] = _Kept(counts, config, entry.fence, base, group, group.version, self._fleet.voids)
        return counts.progress()

    def acknowledge(self, node: Node, ack: Ack) -> Counted:
        """Counts an acknowledgement of a node's replica."""
        key, fleet = (ack.tenant, ack.route), self._fleet
        entry = self._tables.entries.get(key)
        if entry is None:
            return Counted.IGNORED
        tombstone = ack.release is None and ack.state is AckState.FLIPPED
        if tombstone and self._withdrawals.acknowledged(node.name, key, ack.rev):
            return Counted.STALE
        current, fence = entry.current, entry.fence
        kept = self._kept(key, entry)
        before = share(node, fleet.ack_of(key, ack.replica, fence)) if kept is not None else None
        record = fleet.ack(ack, fence, current.id if current else None)
        if record is None:
            return Counted.IGNORED
        if kept is None or before is None:
            return Counted.STALE if current is not None and self._can_keep(key, current) else Counted.COUNTED
        if kept.group.holds(node, ack.replica):
            kept.counts.change(node, before, record)
        return Counted.COUNTED

    def _kept(self, key: PointerKey, entry: TableEntry | None) -> _Kept | None:
        """The counts of a pointer, if nothing but acknowledgements has changed since they were made."""
        kept, fleet = self._counts.get(key), self._fleet
        if kept is None or entry is None or entry.current is None:
            return None
        valid = (
            kept.group.version == kept.version
            and kept.voids == fleet.voids
            and kept.fence == entry.fence
            and kept.config is self._state.config(key)
            and kept.base == entry.current.release.served_base
            and fleet.one_base(kept.base)
            and not self._withdrawals.of(key)
        )
        return kept if valid else None

    def _can_keep(self, key: PointerKey, current: ReleaseRef) -> bool:
        """Whether counts can be kept: who is left behind, on another base or elsewhere, depends on acknowledgements."""
        return self._fleet.one_base(current.release.served_base) and not self._withdrawals.of(key)
