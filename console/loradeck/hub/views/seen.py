"""What a caller sees of things that tenants share: nodes and bases, without what is other tenants'."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from loradeck.hub.access.auth import Caller
from loradeck.hub.data.lineage import Lineage
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.views.rows import Rows
from loradeck.schemas.responses import BaseEntry
from loradeck.schemas.state import Me, NodeReplica, NodeRow


@dataclass(eq=False)
class Seen:
    """Cuts what tenants share to what a caller sees. Callers who see all tenants get everything, at no cost."""

    _catalogue: Catalogue
    _attestations: Attestations
    _lineage: Lineage
    _fleet: Fleet
    _tables: NodeTables
    _replicas: PlacedReplicas
    _rows: Rows

    def me(self, caller: Caller) -> Me:
        """The caller, with its role at each tenant that it sees."""
        tenants = None if caller.tenants is None else dict(caller.tenants)
        return Me(actor=caller.actor, role=caller.role, local=caller.local, tenants=tenants, backward=caller.backward)

    def bases(self, caller: Caller) -> Collection[str]:
        """The bases that are for all tenants, or for one that the caller sees."""
        bases = self._catalogue.bases
        if caller.tenants is None:
            return bases
        return [base for base in bases if not (own := self._lineage.owners(base)) or any(map(caller.sees, own))]

    def base(self, caller: Caller, digest: str) -> BaseEntry:
        """A base with its owners and its lineage, as far as they are of tenants that the caller sees."""
        made = self._attestations.facts.made.get(digest, ())
        return BaseEntry(
            digest=digest,
            label=self._catalogue.base_label(digest),
            manifest=self._catalogue.bases[digest],
            tenants=tuple(sorted(filter(caller.sees, self._lineage.owners(digest)))),
            made=tuple(one for one in made if caller.sees(one.tenant)),
        )

    def node_names(self, caller: Caller) -> Collection[str]:
        """The nodes on which a pointer is placed that the caller sees."""
        if caller.tenants is None:
            return self._fleet.nodes
        keys = [key for key in self._tables.entries if caller.sees(key[0])]
        return {node.name for key in keys for node, _ in self._replicas.placed(key)}

    def node(self, caller: Caller, name: str) -> NodeRow:
        """The row of a node, without the releases, pins and alarms of tenants that the caller does not see."""
        row = self._rows.node(self._fleet.nodes[name])
        if caller.tenants is None:
            return row
        pins = tuple(pin for pin in row.pins if caller.sees(pin.tenant))
        replicas = tuple(self._replica(caller, replica) for replica in row.replicas)
        return row.model_copy(update={"pins": pins, "replicas": replicas})

    def nodes(self, caller: Caller) -> Iterator[NodeRow]:
        """The rows of the nodes that the caller sees, by name."""
        return (self.node(caller, name) for name in sorted(self.node_names(caller)))

    def _replica(self, caller: Caller, replica: NodeReplica) -> NodeReplica:
        releases = self._catalogue.releases
        loaded = tuple(v for v in replica.loaded if v.id in releases and caller.sees(releases[v.id].tenant))
        return replica.model_copy(update={"loaded": loaded, "alarm": ""})  # an alarm may name anybody's release
