"""Nodes that guard suspects: one that answers badly for everybody on it is cordoned, and that is an event."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet, Node
from loradeck.hub.log.background import Background
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.votes import Votes
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.errors import Refused
from loradeck.rules.quality.bad_node import NodeEvidence, Served, at_fault, why_not
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.log import FLEET, Draft, Event, EventKind
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.automation.bad_nodes")

LOOK_S = 10.0
"""Seconds for which a look at a suspected node is good."""

MOST = 200
"""Pointers on a node that are looked at: a rollback must not wait for thousands."""

_DAY_MS = 86_400_000


@dataclass(eq=False)
class BadNodes:
    """Looks at the nodes that guard suspects. `ordered`: tells a node that it is cordoned."""

    _log: Log
    _fleet: Fleet
    _tables: NodeTables
    _replicas: PlacedReplicas
    _votes: Votes
    _allowed: MovesAllowed
    _ordered: Callable[[Node], None]
    _background: Background
    _clock: Clock
    _looked: dict[str, float] = field(default_factory=dict, init=False)
    _cordoned_ms: dict[str, int] = field(default_factory=dict, init=False)
    """Node -> when guard cordoned it last, by the log."""

    def noted(self, event: Event) -> None:
        """Notes what is in the log."""
        if event.kind is EventKind.NODE_CORDON:
            self._cordoned_ms[str(event.payload["node"])] = event.at_ms

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
        found = at_fault(figure, islice(self._served(node, figure), MOST))
        if found is None:
            return None
        why = why_not(
            settling=self._allowed.refusing is not None,
            cordoned=self._fleet.cordoned_by_guard(),
            lately=self._clock.now_ms() - self._cordoned_ms.get(node.name, -_DAY_MS) < _DAY_MS,
            last_of=self._last_of(node),
        )
        if why:
            log.warning("guard cordons no node=%s, though %s: %s", node.name, found, why)
        return None if why else found

    def _keys(self, node: Node) -> set[PointerKey]:
        return self._tables.placed(self._tables.table(node.labels, node.name, own=False))

    def _served(self, node: Node, figure: str) -> Iterator[Served]:
        for key in sorted(self._keys(node)):
            pointer = self._log.state.pointer(key)
            if pointer.release is None:
                continue
            stint = (pointer.generation, pointer.release)
            if units := self._votes.last_minute(key, stint, figure):
                here = units.pop(node.name, (0, 0))
                yield Served(key[0], here, units)

    def _last_of(self, node: Node) -> str:
        """A pointer on a node that no other node in use answers for; '': there is none."""
        for key in sorted(self._keys(node)):
            others = (other for other, _ in self._replicas.placed(key) if other is not node)
            if not any(not (other.lost or other.cordoned or other.drained) for other in others):
                return "/".join(key)
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
                self._fleet.cordon_bad(node, str(found))
        except (Refused, StoreError) as error:
            log.error("guard could not cordon node=%s code=%s %s", node.name, error.code, error)
            return
        log.error("node cordoned node=%s by guard: %s", node.name, found)
        self._ordered(node)
