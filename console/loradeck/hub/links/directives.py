"""Keeps the node tables up to date with the log, and puts every changed entry on the links of the nodes it concerns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.prepares import Prepares
from loradeck.hub.links.all_links import Links
from loradeck.hub.log.attestations import CHANGES_TARGET
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.log import Log, Published
from loradeck.rules.moves.draft import left_by
from loradeck.schemas.attestation import Attestation
from loradeck.schemas.ids import PointerKey


@dataclass(eq=False)
class Directives:
    """Computes table entries from the log, and sends those that changed."""

    _log: Log
    _tables: NodeTables
    _links: Links
    _prepares: Prepares
    _changes: Changes

    def load(self) -> None:
        """Computes the entries of all pointers; nobody is linked yet."""
        for key in self._log.state.routes():
            self._refresh(key)

    def committed(self, published: Published) -> None:
        """Sends the entries that committed events changed; the first follower of the log."""
        self._tables.forget_messages()
        self._links.put([key for key in published.touched if self._refresh(key)])

    def attested(self, attestation: Attestation, keys: Sequence[PointerKey]) -> None:
        """Sends the entries that an attestation changed: where R goes may be another release now."""
        if attestation.kind in CHANGES_TARGET:
            self.refresh(keys)

    def refresh(self, keys: Iterable[PointerKey]) -> None:
        """Sends the entries that something beside the log changed, such as a prepare, and shows their rows."""
        changed = [key for key in keys if key[0] in self._log.state.tenants and self._refresh(key)]
        self._links.put(changed)
        self._changes.now(changed)

    def _refresh(self, key: PointerKey) -> bool:
        pointer = self._log.state.pointer(key)
        last = self._log.last_move(pointer)
        return self._tables.refresh(
            pointer,
            self._log.state.tenants[key[0]],
            self._prepares.preparing(key),
            left_by(last) if last else None,
        )
