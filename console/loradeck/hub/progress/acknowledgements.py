"""The replicas that each pointer is placed on, and how far they are: where acknowledgements count."""

import math
from dataclasses import dataclass, field
from enum import Enum, auto

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import AckRecord, Fleet, Group
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.progress.replica_counts import Progress, ReplicaCounts, share
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.serving import counting
from loradeck.rules.serving.reassignment import has_joined
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack, Replica
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.routing import RouteResidency
from loradeck.schemas.table import ReleaseRef, TableEntry


@dataclass(slots=True)
class _Kept:
    """Counts, and the circumstances that they hold for: they are made anew once one of these is another."""

    counts: ReplicaCounts
    entry: TableEntry
    """The pointer's entry itself: it is another object once the pointer has moved, or its placement has changed."""
    group: Group
    version: int
    """The group's, when the counts were made."""
    voids: int
    """How many acknowledgements had been taken back in the whole fleet."""
    until: float
    """When a lost node leaves the count by its refuse-after, on the hub's monotonic clock."""


class AckEffect(Enum):
    """The effect of an acknowledgement on the counts of its pointer."""

    IGNORED = auto()
    """It is not of the pointer's current generation: nothing changed."""
    COUNTED = auto()
    """The counts are up to date, and others still owe what this one has acknowledged."""
    COMPLETE = auto()
    """The counts are up to date, and as far as is known nobody owes a flip, or a proof, any more."""
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
        return tuple(found for found in (*self.serving(key), *self.withdrawn(key)) if self._counts_at(key, found[0]))

    def _counts_at(self, key: PointerKey, node: Node) -> bool:
        """Tells whether a node's replicas belong to a count: those of a lost one until its refuse-after has run out."""
        return not node.lost or self._fleet.clock() < self._leaves_at(key, node)

    def _leaves_at(self, key: PointerKey, node: Node) -> float:
        """When a node that stays lost leaves a pointer's count, on the hub's monotonic clock."""
        withdrawal, placing = self._withdrawals.of(key).get(node.name), self._tables.placing(key)
        if withdrawal is not None:
            refuse_after_s = withdrawal.refuse_after_s
        else:
            refuse_after_s = placing.refuse_after_of(node) if placing is not None else None
        return counting.leaves_at(refuse_after_s, self._fleet.addressed(node))

    def withdrawn(self, key: PointerKey) -> tuple[tuple[Node, Replica], ...]:
        """The replicas that a pointer was withdrawn from, and that have not acknowledged it."""
        placing = self._tables.placing(key) if self._withdrawals.of(key) else None
        if placing is None:
            return ()
        serving = {node.name for node, _ in self.serving(key)}
        return tuple(found for found in self._withdrawals.replicas(key, placing) if found[0].name not in serving)

    def serving(self, key: PointerKey) -> tuple[tuple[Node, Replica], ...]:
        """The replicas that a pointer's current release is placed on or left behind, unreachable ones too."""
        entry = self._tables.entries.get(key)
        if entry is None or entry.current is None:
            return ()
        site, base = self._state.site(key), entry.current.release.served_base
        return (*self._fleet.placed(site, base), *self._fleet.left_behind(key, entry.fence, site, base))

    def ready(self, key: PointerKey) -> set[str]:
        """The nodes that answer with a pointer's current release as they should: it is loaded, and proven or listed.

        On demand it may be loaded later, where no slot is free.
        """
        on_demand = self._state.config(key).residency is RouteResidency.ON_DEMAND
        acks, found = self.acks(key), set[str]()
        for node, replica in self.serving(key):
            ack = acks.get(replica.replica)
            if ack is None or node.lost or replica.replica in node.silent or not ack.is_flipped:
                continue
            free, since = replica.slots - len(replica.loaded), self._fleet.clock() - (ack.flipped or 0.0)
            if has_joined(ack.state, on_demand=on_demand, free=free, flipped_s=since):
                found.add(node.name)
        return found

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
        placed = self.placed(key)
        counts = ReplicaCounts(placed, self.acks(key))
        if entry is not None and entry.current is not None and self._can_keep(key, entry.current):
            until = min((self._leaves_at(key, node) for node, _ in placed if node.lost), default=math.inf)
            group = self._fleet.group(self._state.site(key).labels, entry.current.release.served_base)
            self._counts[key] = _Kept(counts, entry, group, group.version, self._fleet.voids, until)
        return counts.progress()

    def acknowledge(self, node: Node, ack: Ack) -> AckEffect:
        """Counts an acknowledgement of a node's replica."""
        key, fleet = (ack.tenant, ack.route), self._fleet
        entry = self._tables.entries.get(key)
        if entry is None:
            return AckEffect.IGNORED
        tombstone = ack.release is None and ack.state is AckState.FLIPPED
        if tombstone and self._withdrawals.acknowledged(node.name, key, ack.rev):
            return AckEffect.STALE
        current, fence = entry.current, entry.fence
        kept = self._kept(key, entry)
        before = share(node, ack.replica, fleet.ack_of(key, ack.replica, fence)) if kept is not None else None
        record = fleet.ack(ack, fence, current.id if current else None)
        if record is None:
            return AckEffect.IGNORED
        if kept is None or before is None:
            return AckEffect.STALE if current is not None and self._can_keep(key, current) else AckEffect.COMPLETE
        last = kept.group.holds(node, ack.replica) and kept.counts.change(node, ack.replica, before, record)
        return AckEffect.COMPLETE if last else AckEffect.COUNTED

    def _kept(self, key: PointerKey, entry: TableEntry | None) -> _Kept | None:
        """The counts of a pointer, if nothing but acknowledgements has changed since they were made.

        Others are forgotten: what made them wrong may end, and they lack the acknowledgements of that time.
        """
        kept, fleet = self._counts.get(key), self._fleet
        valid = (
            kept is not None
            and kept.entry is entry
            and kept.group.version == kept.version
            and kept.voids == fleet.voids
            and (kept.until == math.inf or fleet.clock() < kept.until)
            and fleet.one_base(kept.group.base)
            and not self._withdrawals.of(key)
        )
        if kept is not None and not valid:
            del self._counts[key]
        return kept if valid else None

    def _can_keep(self, key: PointerKey, current: ReleaseRef) -> bool:
        """Tells whether counts can be kept: those who are left behind are known by their acknowledgements alone.

        Those of a route in a pool are made anew each time, of its few replicas.
        """
        of_group = self._state.site(key).nodes is None
        return of_group and self._fleet.one_base(current.release.served_base) and not self._withdrawals.of(key)
