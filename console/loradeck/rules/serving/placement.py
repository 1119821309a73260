"""Placement: the nodes that a route is placed on, by labels or by assignment, and the labels that nodes have."""

from collections.abc import Mapping
from typing import NamedTuple

from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.tenant import TenantState


class Site(NamedTuple):
    """Where a route is placed: on every node that carries the labels, or, in a pool, on the nodes it is assigned to."""

    labels: Mapping[str, str]
    nodes: frozenset[str] | None = None

    def holds(self, node: str, labels: Mapping[str, str]) -> bool:
        """Tells whether a node of this name, with these labels, is one of them."""
        return fits(labels, self.labels) if self.nodes is None else node in self.nodes


ANYWHERE = Site({})


def site_of(tenant: TenantState, route: str) -> Site:
    """The nodes on which a tenant's route is placed."""
    config = tenant.routes.get(route)
    if config is None:
        return ANYWHERE
    return Site(config.placement) if config.pool is None else Site({}, frozenset(tenant.assigned.get(route, ())))


def fits(labels: Mapping[str, str], placement: Mapping[str, str]) -> bool:
    """Tells whether a node carries every label that the placement asks for; an empty placement fits every node."""
    return all(labels.get(name) == value for name, value in placement.items())


def belongs(pool: PoolConfig, labels: Mapping[str, str], base: str | None, device: str) -> bool:
    """Tells whether an engine is one of a pool: by its node's labels, the base that it runs, and its device's name."""
    right_base = base is not None and pool.base in (None, base)
    return right_base and fits(labels, pool.labels) and pool.hardware.lower() in device.lower()


def believed(
    said: Mapping[str, str], *, bound: Mapping[str, str] | None, known: Mapping[str, str] | None
) -> Mapping[str, str]:
    """The labels that a node is placed by, whatever it says later: those that its credential binds, or its first ones.

    Args:
        said: the labels of its hello.
        bound: those of the credential by which it has linked; None: it binds none.
        known: those that it was placed by until now, or that a person has allowed since; None: it is new.
    """
    if bound is not None:
        return bound
    return said if known is None else known
