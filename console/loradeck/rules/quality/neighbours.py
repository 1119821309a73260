"""Neighbours of a release: what other tenants have on the replicas that it is placed on.

Where they fare as badly, it is their node or their base. They count by tenant, each as much as another however much it
is asked, so that the callers of one cannot speak for all. A node counts for all tenants on it, so that without the word
of any one the rest has to say the same.
"""

from collections.abc import Iterable, Mapping

from loradeck.rules.quality.health import ENOUGH, Units
from loradeck.rules.quality.statistics import wilson

Neighbours = Mapping[str, Mapping[str, Units]]
"""Node that a release is placed on -> other tenant -> its units there."""


def merged(neighbours: Neighbours, without: str = "") -> dict[str, Units]:
    """Adds up the units of each tenant over all nodes but one."""
    by_tenant: dict[str, Units] = {}
    for node, units_of in neighbours.items():
        for tenant, (bad, n) in units_of.items() if node != without else ():
            known = by_tenant.get(tenant, (0, 0))
            by_tenant[tenant] = (known[0] + bad, known[1] + n)
    return by_tenant


def as_bad(release: Units, neighbours: Neighbours) -> bool:
    """Tells whether a release does no worse than its neighbours by their median, whichever tenant or node is left out.

    So more than half of the tenants have to do as badly (their 95 % intervals do not lie below the release's), also
    without any one of these and without what any one node says. One node's word counts only where there is no other. A
    tenant with fewer than `ENOUGH` units says nothing, and one alone never is a majority.

    `release`: its units, of the same figure.
    """
    low = wilson(*release)[0]
    left_out = ("", *(neighbours if len(neighbours) > 1 else ()))
    return all(_is_majority(merged(neighbours, without=node).values(), low) for node in left_out)


def _is_majority(tenants: Iterable[Units], low: float) -> bool:
    """Tells whether more than half of the tenants do as badly as a release, one of these left out.

    `low`: the lower 95 % bound of the release's share.
    """
    speaking = [units for units in tenants if units[1] >= ENOUGH]
    as_badly = sum(wilson(*units)[1] >= low for units in speaking)
    return 2 * (as_badly - 1) > len(speaking) - 1
