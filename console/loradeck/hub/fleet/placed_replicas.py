"""The replicas that each pointer is placed on, and how far they are: where acknowledgements count."""

from __future__ import annotations

from enum import Enum, auto

from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import AckRecord, Fence, Fleet, Group, Node
from loradeck.hub.fleet.replica_counts import Progress, ReplicaCounts, share
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack, Replica

_Valid = tuple[Group, int, Fence, int]
"""The circumstances that counts hold for: placed replicas, their version, the fence, acknowledgements taken back."""


class Counted(Enum):
    """The effect of an acknowledgement on the counts of its pointer."""

    IGNORED = auto()
    """It is not of the pointer's current generation: nothing changed."""
    COUNTED = auto()
    """The counts are up to date."""
    STALE = auto()
    """Placed replicas have changed too: the counts are made anew when they are next read."""


class PlacedReplicas:
    """Placed replicas, acknowledgements and their counts, by pointer."""

    def __init__(self, state: FoldedLog, fleet: Fleet, tables: NodeTables) -> None:
        self._state = state
        self._fleet = fleet
        self._tables = tables
        self._counts: dict[PointerKey, tuple[_Valid, ReplicaCounts]] = {}

    def placed(self, key: PointerKey) -> tuple[tuple[Node, Replica], ...]:
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
        counts = self._kept(key)
        if counts is None:
            counts = ReplicaCounts(self.placed(key), self.acks(key))
            valid = self._valid(key)
            if valid is not None:
                self._counts[key] = (valid, counts)
        return counts.progress()

    def acknowledge(self, ack: Ack) -> Counted:
        """Counts an acknowledgement of a replica whose node is known."""
        key, fleet = (ack.tenant, ack.route), self._fleet
        entry = self._tables.entries.get(key)
        if entry is None:
            return Counted.IGNORED
        node = fleet.nodes.get(fleet.node_of(ack.replica) or "")
        assert node is not None, "a link takes acknowledgements of its own node's replicas only"
        counts = self._kept(key)
        before = share(node, fleet.ack_of(key, ack.replica, entry.fence))
        record = fleet.ack(ack, entry.fence, entry.current.id if entry.current else None)
        if record is None:
            return Counted.IGNORED
        if counts is None and self._valid(key) is not None:
            return Counted.STALE
        if counts is not None and self._counts[key][0][0].holds(node, ack.replica):
            counts.change(node, before, record)
        return Counted.COUNTED

    def _kept(self, key: PointerKey) -> ReplicaCounts | None:
        """The counts of a pointer, if nothing but acknowledgements has changed since they were made."""
        kept = self._counts.get(key)
        return kept[1] if kept is not None and kept[0] == self._valid(key) else None

    def _valid(self, key: PointerKey) -> _Valid | None:
        """The circumstances that counts made now hold for.

        None where they cannot be kept: which replicas are left behind on another base depends on acknowledgements.
        """
        entry, fleet = self._tables.entries.get(key), self._fleet
        if entry is None or entry.current is None:
            return None
        base = entry.current.release.served_base
        if not fleet.one_base(base):
            return None
        group = fleet.group(self._state.config(key).placement, base)
        return group, group.version, entry.fence, fleet.voids
