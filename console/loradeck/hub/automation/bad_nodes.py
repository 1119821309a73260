"""Nodes that guard suspects: one that answers badly for everybody on it is cordoned, and that is an event."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.background import Background
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.hub.progress.votes import Votes
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.rules.quality.bad_node import NodeEvidence, Served, at_fault, why_not
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.log import FLEET, Draft, EventKind, PointerState
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.automation.bad_nodes")

LOOK_S = 10.0
"""Seconds for which a look at a suspected node is good."""

MOST = 200
"""Pointers that are looked at, those with the most requests on the node: a rollback must not wait for thousands."""


@dataclass(eq=False)
class BadNodes:
    """Looks at the nodes that guard suspects. `ordered`: tells a node that it is cordoned."""

    _log: Log
    _fleet: Fleet
    _tables: NodeTables
    _votes: Votes
    _allowed: MovesAllowed
    _ordered: Callable[[Node], None]
    _background: Background
    _clock: Clock
    _looked: dict[str, float] = field(default_factory=dict, init=False)
    _said: dict[str, str] = field(default_factory=dict, init=False)
    """Node that is at fault -> why it is not cordoned, as it was said last."""

    def suspect(self, name: str, replica: str | None, figure: str) -> None:
        """Looks at a node by whose answers a release is bad.

        Args:
            name: of the node; '': that of the replica.
            replica: the one that stands out among the release's; None: none does.
            figure: by which share, 'bad' or 'errors'.
        """
        name, now = name or (replica and self._fleet.node_of(replica)) or "", self._clock.monotonic()
        node = self._fleet.nodes.get(name)
        if node is None or node.cordoned or (name in self._looked and now < self._looked[name] + LOOK_S):
            return
        self._looked[name] = now
        if self._found(node, figure) is not None:
            self._background.spawn(self._cordon(node, figure))

    def _found(self, node: Node, figure: str) -> NodeEvidence | None:
        """Returns what speaks against a node; None: too little does, or it may not be cordoned now."""
        found = at_fault(figure, self._served(node, figure))
        if found is None:
            self._said.pop(node.name, None)
            return None
        now_ms = self._clock.now_ms()
        why = why_not(
            settling=self._allowed.refusing is not None,
            cordoned=self._fleet.cordoned_by_guard(),
            lately=node.blamed_ms is not None and now_ms - node.blamed_ms < DAY_MS,
            last_of=self._last_of(node),
        )
        if why and self._said.get(node.name) != why:
            log.warning("guard cordons no node=%s, though %s: %s", node.name, found, why)
        self._said[node.name] = why
        return None if why else found

    def _keys(self, node: Node) -> set[PointerKey]:
        return self._tables.placed(self._tables.table(node.labels, node.name, own=False))

    def _served(self, node: Node, figure: str) -> Iterator[Served]:
        def requests(pointer: PointerState) -> int:
            return self._votes.last_minute_on(node.name, pointer.key, (pointer.generation, pointer.release or ""))

        for pointer in nlargest(MOST, map(self._log.state.pointer, sorted(self._keys(node))), key=requests):
            units = self._votes.last_minute(pointer.key, (pointer.generation, pointer.release or ""), figure)
            if here := units.pop(node.name, None):
                yield Served(pointer.key[0], here, units, self._votes.guard_limit(pointer.key, figure))

    def _last_of(self, node: Node) -> str:
        """A pointer on a node that no other node in use answers for; '': there is none."""
        looked = set[tuple[Any, ...]]()  # thousands of pointers have a few places
        for key in sorted(self._keys(node)):
            if (placing := self._tables.placing(key)) is None:
                continue
            (labels, nodes), base = placing.where
            place = (frozenset(labels.items()), nodes, base)
            others = (other for other, _ in self._fleet.placed(placing.site, base) if other is not node)
            if place not in looked and all(other.lost or other.cordoned or other.drained for other in others):
                return "/".join(key)
            looked.add(place)
        return ""

    async def _cordon(self, node: Node, figure: str) -> None:
        """Cordons a node, by what is true once no move is under way."""
        try:
            async with self._log.moving:
                found = self._found(node, figure)
                if found is None or node.cordoned or self._fleet.nodes.get(node.name) is not node:
                    return
                self._allowed.check()
                payload = {"node": node.name, "evidence": found._asdict(), "automation": True}
                draft = Draft(
                    kind=EventKind.NODE_CORDON,
                    tenant=FLEET,
                    actor="guard",
                    role=Role.OPERATOR,
                    reason=f"guard: {found}",
                    payload=payload,
                )
                await self._log.commit([draft], f"guard cordon {node.name} {self._log.state.rev}")
                self._fleet.cordon_bad(node, str(found), self._clock.now_ms())
        except (Refused, StoreError) as error:
            log.error("guard could not cordon node=%s code=%s %s", node.name, error.code, error)
            return
        log.error("node cordoned node=%s by guard: %s", node.name, found)
        self._ordered(node)
