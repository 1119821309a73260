"""Room for a release on the nodes it would be placed on: engines of its base, slots for adapters, memory."""

from dataclasses import dataclass

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.serving.capacity import Holding, first_residency
from loradeck.rules.serving.residency import PriorRoom, prior_room
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Replica
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.protocol import Feature
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.table import ReleaseRef, RouteResidency, TableEntry


@dataclass(eq=False)
class Capacity:
    """Looks at the replicas that a candidate would be placed on, if a pointer were moved to it."""

    _state: FoldedLog
    _fleet: Fleet
    _tables: NodeTables
    _replicas: PlacedReplicas

    def placed(self, key: PointerKey, candidate: Release) -> tuple[tuple[Node, Replica], ...]:
        """The replicas of the candidate's base, unreachable ones too."""
        return self._fleet.placed(self._state.site(key), candidate.served_base)

    def reachable(self, key: PointerKey, candidate: Release) -> list[str]:
        """The names of reachable nodes with such a replica, sorted."""
        placed = self.placed(key, candidate)
        return sorted(
            {node.name for node, replica in placed if not node.lost and replica.state is not EngineState.DOWN}
        )

    def left_behind(self, key: PointerKey, candidate: Release) -> list[str]:
        """The names of nodes that serve the pointer now and have no engine of the candidate's base."""
        serving = {node.name for node, _ in self._replicas.serving(key) if not node.lost}
        return sorted(serving - {node.name for node, _ in self.placed(key, candidate)})

    def lacking(self, key: PointerKey, candidate: Release, feature: Feature) -> list[str]:
        """The names of nodes that serve the pointer now, or would, and whose router does not announce a feature."""
        nodes = [node for node, _ in (*self._replicas.placed(key), *self.placed(key, candidate))]
        return sorted({node.name for node in nodes if feature not in node.features})

    def memory_short(self, key: PointerKey, candidate: Release) -> str:
        """Names the nodes whose memory does not hold the candidate's engine beside those of all that is live there."""
        short_of = []
        for node, replica in self.placed(key, candidate):
            if node.memory_gb is None or node.lost:
                continue
            table = self._tables.table(node.labels, node.name, own=False)
            currents = (self._tables.entries[k].current for k in table.keys if k not in table.withdrawn)
            bases = {ref.release.served_base for ref in currents if ref is not None}
            others = [r for r in node.replicas if r is not replica and (r.always or r.base in bases)]
            needed = (replica.memory_gb or 0) + sum(r.memory_gb or 0 for r in others)
            if needed > node.memory_gb:
                short_of.append(f"{node.name}: {needed:g} of {node.memory_gb:g} GB")
        return ", ".join(short_of[:8])

    def moved(self, key: PointerKey, candidate: Release, now_ms: int) -> TableEntry:
        """A pointer's entry as a promote of the candidate would leave it."""
        ref, entry = ReleaseRef(id=candidate.id, release=candidate), self._tables.entries.get(key)
        if entry is None:
            residency = self._state.config(key).residency
            made = {"epoch": 0, "generation": 0, "current": ref, "residency": residency, "moved_ms": now_ms}
            return TableEntry(tenant=key[0], route=key[1], **made)
        live = (entry.current,) if entry.current is not None else ()
        after = {"current": ref, "beneath": (*live, *entry.beneath), "preparing": None, "candidate": None}
        return entry.model_copy(update={**after, "moved_ms": now_ms})

    def prior_room(self, key: PointerKey, candidate: Release, now_ms: int) -> PriorRoom:
        """The slots for a candidate and for what it would leave, on the placed replica that has the fewest."""
        if candidate.form is not Form.ADAPTER or key not in self._tables.entries:
            return PriorRoom.FITS
        moved = self.moved(key, candidate, now_ms)
        found = [
            prior_room(moved, at.entries, at.slots, base=candidate.served_base, pins=at.pins, now_ms=now_ms)
            for at in self._beside(key, candidate)
        ]
        return max(found, key=list(PriorRoom).index, default=PriorRoom.FITS)

    def goes_on_demand(self, key: PointerKey, candidate: Release) -> bool:
        """Tells whether a promote of it would be its route's first, where not all fits (`first_residency`)."""
        asked = self._state.config(key).residency is RouteResidency.ON_DEMAND
        if asked or candidate.form is not Form.ADAPTER or self._state.pointer(key).generation:
            return False
        return any(first_residency(at) is RouteResidency.ON_DEMAND for at in self._beside(key, candidate))

    def _beside(self, key: PointerKey, candidate: Release) -> list[Holding]:
        """Collects what other pointers ask of the replicas that a candidate would be placed on; of those alike once."""
        found = dict[tuple[object, ...], Holding]()
        for node, replica in self.placed(key, candidate):
            if node.lost or not replica.slots:
                continue
            table = self._tables.table(node.labels, node.name, own=False)
            name = (id(table), replica.slots, *(pin.release.id for pin in node.pins))
            if name not in found:
                others = [self._tables.entries[k] for k in table.keys if k != key and k not in table.withdrawn]
                base, pins = candidate.served_base, tuple(node.pins)
                found[name] = Holding(slots=replica.slots, base=base, entries=others, pins=pins)
        return list(found.values())
