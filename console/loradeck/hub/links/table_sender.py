"""Keeps the node tables up to date with the log, and puts every changed entry on the links of the nodes it concerns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loradeck.hub.fleet.node_tables import NodeTables, Placing
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.withdrawals import Withdrawals
from loradeck.hub.links.all_links import Links
from loradeck.hub.log.attestations import CHANGES_TARGET
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.log import Log, Published
from loradeck.hub.progress.target_lookup import Prepares
from loradeck.rules.moves.fold import tenant_after
from loradeck.rules.serving.placement import site_of
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Draft, EventKind
from loradeck.schemas.tenant import TenantState
from loradeck.store.interface import FleetChange


@dataclass(eq=False, kw_only=True)
class TableSender:
    """Computes table entries from the log, and sends those that changed."""

    log: Log
    catalogue: Catalogue
    tables: NodeTables
    withdrawals: Withdrawals
    fleet: Fleet
    links: Links
    prepares: Prepares
    changes: Changes

    def load(self) -> None:
        """Computes the entries of all pointers; nobody is linked yet."""
        for key in self.log.state.routes():
            self._refresh(key)
        self.tables.loaded(self.log.state.rev)

    def committed(self, published: Published) -> None:
        """Sends the entries that committed events changed; the first follower of the log."""
        self.tables.forget_messages()
        before = {key: self.tables.placing(key) for key in published.touched}
        for event in published.events:
            if event.kind is EventKind.ROUTE and event.route is not None:
                self.tables.settings_set((event.tenant, event.route), event.rev)
        changed = [key for key in published.touched if self._refresh(key)]
        for key in changed:
            was, now = before[key], self.tables.placing(key)
            self.withdrawals.placed_otherwise(key, was, now)
            if was is not None and now is not None and now.site.nodes is not None:
                self.fleet.joins(key, now.site.nodes - self.withdrawals.names(was))
        self.links.put(changed)
        self.links.outbox.flush()  # nodes have work to do with it, and need not wait for the hub's other followers
        for event in published.events:
            if event.kind is EventKind.NODE_FORGET:
                self._forgotten(str(event.payload["node"]))

    def _forgotten(self, name: str) -> None:
        """Takes a forgotten node out of the fleet. One that has linked meanwhile is an ordinary node, and is kept."""
        node = self.fleet.nodes.get(name)
        if node is None:
            return
        if node.linked:
            node.saved = None
            self.fleet.unsaved.add(name)
            self.withdrawals.keep(name)
            return
        table = self.tables.table(node.labels, name, own=False)
        keys = table.members | self.withdrawals.on(name)
        self.withdrawals.forgotten(name)
        self.fleet.forget(node)
        self.changes.node(name)
        self.changes.soon_for_all(keys)

    def changes_fleet(self, drafts: Sequence[Draft]) -> FleetChange:
        """The nodes that drafts forget and the withdrawals that they cause, to be committed with them."""
        forgotten = [str(draft.payload["node"]) for draft in drafts if draft.kind is EventKind.NODE_FORGET]
        ended = {(name, key): None for name in forgotten for key in self.withdrawals.on(name)}
        before: dict[PointerKey, Placing] = {}
        after: dict[PointerKey, Placing] = {}
        tenants: dict[str, TenantState] = {}
        for draft in drafts:
            key = (draft.tenant, draft.route or "")
            placing = after.get(key) or self.tables.placing(key)
            if placing is None:
                continue
            site, base = placing.where
            if draft.kind in (EventKind.ROUTE, EventKind.ASSIGN):
                known = tenants.get(draft.tenant) or self.log.state.tenants[draft.tenant]
                tenants[draft.tenant] = tenant = tenant_after(known, draft) or known
                site = site_of(tenant, key[1])
            if draft.pointer is not None and draft.pointer.release is not None:
                release = self.catalogue.releases.get(draft.pointer.release)
                base = release.served_base if release is not None else base
            if (site, base) != placing.where:
                before.setdefault(key, placing)
                after[key] = placing._replace(site=site, base=base)
        rev = self.log.state.rev + len(drafts)
        caused = [one for key in after for one in self.withdrawals.caused(key, before[key], after[key], rev)]
        begun = {(one.node, one.key): one for one in caused}
        return FleetChange(nodes=dict.fromkeys(forgotten), withdrawals={**ended, **begun})

    def attested(self, attestation: Attestation, keys: Sequence[PointerKey]) -> None:
        """Sends the entries that an attestation changed: where R goes may be another release now."""
        if attestation.kind in CHANGES_TARGET:
            self.refresh(keys)
        elif attestation.kind in (AttestationKind.ERASURE, AttestationKind.DEPRECATION):
            # Samples of before go with the rows; who calls what is deprecated is told so.
            self.refresh(key for key in self.log.state.routes() if key[0] == attestation.tenant)

    def refresh(self, keys: Iterable[PointerKey]) -> None:
        """Sends the entries that something beside the log changed, such as a prepare, and shows their rows."""
        changed = [key for key in keys if key[0] in self.log.state.tenants and self._refresh(key)]
        self.links.put(changed)
        self.changes.now(changed)

    def _refresh(self, key: PointerKey) -> bool:
        pointer = self.log.state.pointer(key)
        return self.tables.refresh(
            pointer,
            self.log.state.tenants[key[0]],
            self.log.last_rev(key),
            self.prepares.preparing(key),
            self.log.last_move(pointer),
        )
