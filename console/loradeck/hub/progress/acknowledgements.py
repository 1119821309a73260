"""The replicas that each pointer is placed on, and how far they are: where acknowledgements count.

A fleet answers a move all at once. Counting anew with every acknowledgement would make a move to a thousand nodes a
million steps.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import AckRecord, Fleet, Group
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.serving import counting, proof
from loradeck.rules.serving.counting import Share
from loradeck.rules.serving.proof import Reached
from loradeck.rules.serving.reassignment import has_joined
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack, Replica
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import ReleaseRef, RouteResidency, TableEntry


@dataclass(slots=True)
class Progress:
    """The number of placed replicas at each stage of a pointer's current generation. Never changed in place; it is not
    frozen because that doubles what making one takes.

    `reachable` replicas are those whose node was heard within the TTL and says that they answer. Only these count as
    `flipped`, `proven` or `listed`: nobody knows what the others answer with now. `owing_flip` and `owing_proof` are
    the reachable replicas that may still flip, or be proven, listed or failed; one that is pinned to another release
    owes nothing until its pin has ended. `resting` ones have flipped and are not proven now, and that is as it should
    be (`counting.is_resting`).
    `flipped_at` and `proven_at` are when the last one got there, on the hub's monotonic clock; None while one is
    missing.
    """

    placed: int
    reachable: int
    flipped: int
    proven: int
    listed: int
    failed: int
    owing_flip: int
    owing_proof: int
    resting: int
    flipped_at: float | None
    proven_at: float | None

    @property
    def reached(self) -> Reached:
        """How far the generation has come on all its placed replicas."""
        return proof.reached(placed=self.placed, flipped=self.flipped, proven=self.proven, listed=self.listed)

    @property
    def is_unproven(self) -> bool:
        """Whether some placed replica is neither proven nor listed nor resting: it may answer with another release."""
        return self.proven + self.listed + self.resting < max(1, self.placed)

    @property
    def settled(self) -> bool:
        """Whether every reachable replica is proven, listed, failed or pinned elsewhere: no acknowledgement is owed."""
        return self.owing_proof == 0

    def hopeless(self, level: str) -> bool:
        """Tells whether waiting for a level is of no use: every reachable replica has got as far as it can."""
        return (self.owing_proof if level == "proven" else self.owing_flip) == 0


def share(node: Node, replica: str, ack: AckRecord | None) -> Share:
    """The part of a node's replica in the counts, by its newest acknowledgement of the current generation."""
    silent = node.lost or replica in node.silent
    if ack is None:
        return counting.share(silent=silent, state=None, flipped=False, pinned=False)
    return counting.share(
        silent=silent, state=ack.state, flipped=ack.is_flipped, pinned=ack.is_pinned, rests=ack.is_resting
    )


_OWING = (5, 6)
"""Where a share says that a flip, and a proof, is owed."""


class ReplicaCounts:
    """The counts of one pointer over its placed replicas, and when the latest flip and proof came."""

    __slots__ = ("_flipped_at", "_placed", "_proven_at", "_sums")

    def __init__(self, placed: Iterable[tuple[Node, Replica]], acks: Mapping[str, AckRecord]) -> None:
        self._sums = [0] * 8
        self._placed = 0
        self._flipped_at = self._proven_at = 0.0
        for node, replica in placed:
            self._placed += 1
            ack = acks.get(replica.replica)
            for index, part in enumerate(share(node, replica.replica, ack)):
                self._sums[index] += part
            if ack is not None:
                self._note(node, replica.replica, ack)

    def change(self, node: Node, replica: str, before: Share, ack: AckRecord) -> bool:
        """Counts an acknowledgement of a placed replica, whose share was `before`.

        Returns whether it was the last that owed a flip, or a proof.
        """
        after, sums = share(node, replica, ack), self._sums
        if after != before:
            for index, part in enumerate(after):
                sums[index] += part - before[index]
        self._note(node, replica, ack)
        return any(before[owing] and not after[owing] and not sums[owing] for owing in _OWING)

    def _note(self, node: Node, replica: str, ack: AckRecord) -> None:
        # What is taken back leaves a time behind that is too early to matter: who gets there again does so later.
        if node.lost or replica in node.silent:
            return
        if ack.flipped is not None and ack.flipped > self._flipped_at:
            self._flipped_at = ack.flipped
        if ack.proven is not None and ack.proven > self._proven_at:
            self._proven_at = ack.proven

    def progress(self) -> Progress:
        """The counts as they are now."""
        n = self._placed
        reachable, flipped, proven, listed, failed, owing_flip, owing_proof, resting = self._sums
        return Progress(
            placed=n,
            reachable=reachable,
            flipped=flipped,
            proven=proven,
            listed=listed,
            failed=failed,
            owing_flip=owing_flip,
            owing_proof=owing_proof,
            resting=resting,
            flipped_at=self._flipped_at if n and flipped == n else None,
            proven_at=self._proven_at if n and proven == n else None,
        )


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
