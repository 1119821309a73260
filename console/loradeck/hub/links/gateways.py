"""Gateways: what they are told beside table entries, which is where each pointer is served and how near it is there."""

from dataclasses import dataclass, field

from loradeck.hub.access.auth import Caller, Tokens
from loradeck.hub.fleet.node import Node, NodeLink
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.changes import Changes, Subscriber
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.rules.serving.gateway import NEARNESS
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.link import ServedRoute, Serving
from loradeck.schemas.replica_state import AckLevel
from loradeck.schemas.table import ELSEWHERE

TICK_S = 0.25
"""Seconds in which acknowledgements are gathered before gateways are told."""

NODES = 64
"""Most nodes that a gateway is told of one pointer: the nearest ones."""


@dataclass
class _Owed:
    """What one gateway has not been told yet: never more than there is."""

    full: bool = True
    nodes: bool = True
    keys: dict[PointerKey, None] = field(default_factory=dict)


@dataclass(eq=False)
class Gateways:
    """The linked gateways. They cost nothing while there is none."""

    _fleet: Fleet
    _tables: NodeTables
    _replicas: PlacedReplicas
    _changes: Changes
    _tokens: Tokens
    _owed: dict[NodeLink, _Owed] = field(default_factory=dict, init=False)
    _routes: dict[PointerKey, dict[str, AckLevel]] = field(default_factory=dict, init=False)
    _nodes: tuple[dict[str, str], tuple[str, ...]] = field(default=({}, ()), init=False)
    """The addresses of nodes, and those of them that are lost."""
    _watch: Subscriber = field(init=False)

    def __post_init__(self) -> None:
        self._watch = Subscriber(Caller(actor="gateways", role=Role.VIEWER))
        self._watch.shown, self._watch.shown_nodes = frozenset(), frozenset()  # figures tell a gateway nothing

    def linked(self, link: NodeLink) -> None:
        """A gateway has linked: it is told everything, and then what changes."""
        if not self._owed:
            self._changes.subscribers.add(self._watch)
            self._nodes, self._routes = self._addresses(), {key: self._served(key) for key in self._tables.entries}
        self._owed[link] = _Owed()
        link.put_serving()

    def unlinked(self, link: NodeLink) -> None:
        """A link has ended, perhaps a gateway's."""
        if self._owed.pop(link, None) is not None and not self._owed:
            self._changes.subscribers.discard(self._watch)
            self._routes.clear()

    async def tick(self) -> None:
        """Tells the gateways what has changed since the last call."""
        if not self._owed:
            return
        watch = self._watch
        keys, watch.tenants, watch.nodes = watch.tenants, {}, {}
        watch.events.clear()
        changed = dict[PointerKey, None]()
        for key in keys:
            served = self._served(key)
            if served != self._routes.get(key):
                self._routes[key], changed[key] = served, None
        nodes, self._nodes = self._nodes, self._addresses()
        if not changed and nodes == self._nodes:
            return
        for link, owed in self._owed.items():
            owed.keys.update(changed)
            owed.nodes = owed.nodes or nodes != self._nodes
            link.put_serving()

    def take(self, link: NodeLink) -> Serving | None:
        """Takes what a gateway is owed, which counts as told from here on; None: nothing."""
        owed = self._owed.get(link)
        if owed is None or not (owed.full or owed.nodes or owed.keys):
            return None
        self._owed[link] = _Owed(full=False, nodes=False)
        keys = self._routes if owed.full else owed.keys
        return Serving(
            full=owed.full,
            nodes=self._nodes[0] if owed.nodes else None,
            lost=self._nodes[1] if owed.nodes else (),
            routes=tuple(ServedRoute(tenant=key[0], route=key[1], nodes=self._routes[key]) for key in keys),
        )

    def _addresses(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """A lost node is told with its address: the hub may be the one that is cut off. One that was revoked is not."""
        nodes = {name: node for name, node in self._fleet.nodes.items() if node.address}
        lost = {name for name, node in nodes.items() if node.lost}
        if lost:
            lost &= {record.node or "" for record in self._tokens.all() if self._tokens.is_valid(record)}
        return {n: node.address for n, node in nodes.items() if n in lost or not node.lost}, tuple(sorted(lost))

    def elsewhere(self, key: PointerKey) -> tuple[str, ...]:
        """The nodes that one which a pointer was withdrawn from names to gateways: the nearest ones."""
        levels = self._served(key)
        return tuple(sorted(levels, key=lambda name: (NEARNESS.index(levels[name]), name)))[:ELSEWHERE]

    def _served(self, key: PointerKey) -> dict[str, AckLevel]:
        """The nodes that a pointer is placed on, and how near its release is to answering there."""
        entry = self._tables.entries.get(key)
        levels = dict[str, AckLevel]()
        # A node that joins is asked once it has proven the release, if another one has.
        ready = self._replicas.ready(key) if self._tables.is_assigned(key) else set()
        for node, replica in self._replicas.serving(key) if entry is not None else ():
            if not node.address:
                continue
            assert entry is not None
            joining = bool(ready) and node.name not in ready
            level = AckLevel.ABSENT if joining else self._level(key, node, replica.replica, entry.fence)
            levels[node.name] = min(level, levels.get(node.name, level), key=NEARNESS.index)
        if len(levels) <= NODES:
            return levels
        return dict(sorted(levels.items(), key=lambda one: (NEARNESS.index(one[1]), one[0]))[:NODES])

    def _level(self, key: PointerKey, node: Node, replica: str, fence: tuple[int, int]) -> AckLevel:
        """Ranks a replica. A node that is drained or silent, and a replica that has not flipped, come last."""
        record = self._fleet.ack_of(key, replica, fence)
        if record is None or not record.is_flipped or node.drained or replica in node.silent:
            return AckLevel.ABSENT
        return record.level or AckLevel.HOST  # an agent of the version before does not say
