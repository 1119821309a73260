"""Withdrawals: pointers that were placed on a node, are not any more, and whose tombstone it has not acknowledged.

Such a node may answer with what it holds, so its replicas stay in the pointer's count. Those that a commit causes are
stored with it, and those of a node that comes back with other labels before it is sent a table: a hub that is started
again knows them all.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import Placing
from loradeck.hub.fleet.nodes import Fleet
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Replica
from loradeck.store.interface import Withdrawal


class Withdrawals:
    """The withdrawals that are not acknowledged. `saved` are those that the store has."""

    def __init__(self, state: FoldedLog, fleet: Fleet, saved: Iterable[Withdrawal] = ()) -> None:
        self._state = state
        self._fleet = fleet
        self._by_key: dict[PointerKey, dict[str, Withdrawal]] = defaultdict(dict)
        self._by_node: dict[str, set[PointerKey]] = defaultdict(set)
        for one in saved:
            self._add(one)
        self.unsaved: dict[tuple[str, PointerKey], Withdrawal | None] = {}
        """Those that have begun, or ended (None), since they were last written."""

    # ---- who still holds what ------------------------------------------------------------------------------

    def of(self, key: PointerKey) -> Mapping[str, Withdrawal]:
        """The withdrawals of a pointer, by node."""
        return self._by_key.get(key, {})

    def on(self, node: str) -> frozenset[PointerKey]:
        """The pointers that a node may still hold, though they are not placed there."""
        return frozenset(self._by_node.get(node, ()))

    def replicas(self, key: PointerKey, placing: Placing) -> list[tuple[Node, Replica]]:
        """The replicas that may answer for a pointer although it was withdrawn from their nodes.

        A node that is placed there again, and has no engine of the base, says itself whether it was left behind; only
        while it is lost is its withdrawal all that is known.
        """
        site, base = placing.where
        found: list[tuple[Node, Replica]] = []
        for name in sorted(self.of(key)):
            node = self._fleet.nodes.get(name)
            if node is None or (site.holds(name, node.labels) and not node.lost):
                continue
            of_base = [replica for replica in node.replicas if replica.base == base]
            found += [(node, replica) for replica in of_base or node.replicas]
        return found

    # ---- how they begin ------------------------------------------------------------------------------------

    def caused(self, key: PointerKey, before: Placing | None, after: Placing | None, rev: int) -> list[Withdrawal]:
        """The withdrawals of the nodes that a pointer leaves when it is placed otherwise at a rev."""
        if before is None or after is None or before.where == after.where:
            return []
        leaving = self.names(before) - self.names(after)
        return [self._begun(name, key, before, rev) for name in sorted(leaving)]

    def placed_otherwise(self, key: PointerKey, before: Placing | None, after: Placing | None) -> None:
        """Notes that a committed event has placed a pointer otherwise."""
        for one in self.caused(key, before, after, self._state.rev):
            self._note(one.node, key, one)
        if after is not None and key in self._by_key:
            for name in self.names(after) & self.of(key).keys():
                self._note(name, key, None)

    def _begun(self, node: str, key: PointerKey, before: Placing, rev: int) -> Withdrawal:
        refuse_after_s = before.refuse_after_of(self._fleet.nodes[node])
        return Withdrawal(node=node, tenant=key[0], route=key[1], rev=rev, refuse_after_s=refuse_after_s)

    def labelled_otherwise(self, node: Node, left: Mapping[PointerKey, Placing], entered: Iterable[PointerKey]) -> None:
        """Notes that a node has come back with other labels, and so leaves some pointers and enters others."""
        for key in self.on(node.name).intersection(entered):
            self._note(node.name, key, None)
        for key, placing in left.items():
            self._note(node.name, key, self._begun(node.name, key, placing, self._state.rev))

    def names(self, placing: Placing) -> set[str]:
        """The nodes that have an engine for a pointer where it is placed."""
        return {node.name for node, _ in self._fleet.placed(*placing.where)}

    # ---- how they end --------------------------------------------------------------------------------------

    def acknowledged(self, node: str, key: PointerKey, rev: int | None) -> bool:
        """Ends a withdrawal: the node has acknowledged a tombstone, its table following the log up to `rev`.

        False: it was not withdrawn, or the acknowledgement is of an earlier tombstone. An agent that does not say a
        rev is believed.
        """
        one = self.of(key).get(node)
        if one is None or (rev is not None and rev < one.rev):
            return False
        self._note(node, key, None)
        return True

    def forgotten(self, node: str) -> None:
        """Ends all withdrawals of a node that was forgotten."""
        for key in self.on(node):
            self._note(node, key, None)

    # ---- keeping -------------------------------------------------------------------------------------------

    def keep(self, node: str) -> None:
        """Has all withdrawals of a node written again."""
        self.unsaved.update({(node, key): self._by_key[key][node] for key in self.on(node)})

    def _add(self, one: Withdrawal) -> None:
        self._by_key[one.key][one.node] = one
        self._by_node[one.node].add(one.key)

    def _note(self, node: str, key: PointerKey, one: Withdrawal | None) -> None:
        self.unsaved[node, key] = one
        if one is not None:
            self._add(one)
            return
        self._by_key[key].pop(node, None)
        self._by_node[node].discard(key)
        if not self._by_key[key]:
            del self._by_key[key]
        if not self._by_node[node]:
            del self._by_node[node]
