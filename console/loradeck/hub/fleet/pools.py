"""The pools as the fleet has them: which nodes are of a pool, with how many slots, and why some are given nothing."""

from collections import Counter
from dataclasses import dataclass, field

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.catalogue import Catalogue
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.tenants import pooled
from loradeck.rules.serving.placement import belongs, fits
from loradeck.schemas.ids import Name
from loradeck.schemas.link import LOADED, Replica
from loradeck.schemas.pool import PoolConfig, PoolNode, PoolRow
from loradeck.schemas.route import RouteConfig


@dataclass(eq=False)
class Pools:
    """The nodes of each pool, by what they say of themselves."""

    _state: FoldedLog
    _fleet: Fleet
    _catalogue: Catalogue
    _devices: dict[Name, str] = field(default_factory=dict, init=False)
    """What was last known of each replica's device: one whose engine starts does not say it."""

    def slots(self, pool: PoolConfig, base: str | None = None) -> dict[Name, int]:
        """The nodes of a pool, lost ones too, with the slots of their engines. `base`: of its engines alone."""
        found: dict[Name, int] = {}
        for name, node in sorted(self._fleet.nodes.items()):
            engines = [
                one
                for one in node.replicas
                if base in (None, one.base) and belongs(pool, node.labels, one.base, self._device(node, one))
            ]
            if engines and not node.gateway:
                found[name] = min(LOADED, sum(one.slots for one in engines))  # a node says so itself
        there = {one.replica for node in self._fleet.nodes.values() for one in node.replicas}
        if len(self._devices) > len(there):
            self._devices = {name: device for name, device in self._devices.items() if name in there}
        return found

    def _device(self, node: Node, replica: Replica) -> str:
        if replica.build is not None:
            cards = [gpu.name for gpu in node.gpus if gpu.index in replica.gpus] if replica.gpus else []
            self._devices[replica.replica] = " ".join((replica.build.device, *cards))
        return self._devices.get(replica.replica, "")

    def trouble(self, name: Name) -> str:
        """Why a node is given no route: lost, drained, cordoned, forgotten; '': it is given routes."""
        node = self._fleet.nodes.get(name)
        if node is None:
            return "forgotten"
        return "lost" if node.lost else "drained" if node.drained else "cordoned" if node.cordoned else ""

    def row(self, name: Name) -> PoolRow:
        """A pool as it is shown."""
        config, routes = self._state.pools[name], pooled(self._state.tenants, name)
        assigned = Counter(
            node for (tenant, route), _ in routes for node in self._state.tenants[tenant].assigned.get(route, ())
        )
        slots = {**dict.fromkeys(assigned, 0), **self.slots(config)}
        nodes = tuple(
            PoolNode(node=node, slots=count, routes=assigned[node], trouble=self.trouble(node))
            for node, count in sorted(slots.items())
        )
        return PoolRow(pool=name, config=config, nodes=nodes, routes=len(routes), sku=self.sku(name))

    def sku(self, name: Name) -> str:
        """Names the whole weights that are a pool's base, 'acme v7m'; '': they are none that a job has made."""
        pool = self._state.pools.get(name)
        return self._catalogue.sku(pool.base) if pool is not None else ""

    def slotted(self, config: RouteConfig) -> int:
        """Counts the nodes on which a route of these settings needs slots, lost ones too; one where there is none yet.

        A SKU's weights are their engine's base and need none.
        """
        if config.pool is not None:
            return 0 if self.sku(config.pool.pool) else config.pool.replicas
        nodes = [node for node in self._fleet.nodes.values() if fits(node.labels, config.placement)]
        return max(1, sum(any(one.slots for one in node.replicas) for node in nodes))
