"""Neighbours of a release: what other tenants have on the replicas that it is placed on.

Where they fare as badly, it is their node or their base. They count by tenant, each as much as another however much it
is asked, so that the callers of one cannot speak for all. A node counts for all tenants on it, so that without the word
of any one the rest has to say the same.
"""

from collections.abc import Iterable, Mapping

from loradeck.rules.quality.health import ENOUGH, Units
from loradeck.rules.quality.statistics import wilson

Neighbours = Mapping[str, Mapping[str, Units]]
"""Node that a release is placed on -> other tenant -> its units there of the last minute."""


def as_bad(release: Units, neighbours: Neighbours) -> bool:
    """Tells whether a release does no worse than its neighbours by their median, whichever tenant or node is left out.

    So more than half of the tenants have to do as badly (their 95 % intervals do not lie below the release's), also
    without any one of these and without what any one node says. One node's word counts only where there is no other. A
    tenant with fewer than `ENOUGH` units says nothing, and one alone never is a majority.

    `release`: its units, of the same figure.
    """
    low, everybody = wilson(*release)[0], dict[str, Units]()
    for units in neighbours.values():
        _add(everybody, units, 1)
    if not _is_majority(everybody.values(), low):
        return False
    for units in neighbours.values() if len(neighbours) > 1 else ():
        _add(everybody, units, -1)
        holds = _is_majority(everybody.values(), low)
        _add(everybody, units, 1)
        if not holds:
            return False
    return True


def _add(sums: dict[str, Units], units: Mapping[str, Units], times: int) -> None:
    for tenant, (bad, n) in units.items():
        known = sums.get(tenant, (0, 0))
        sums[tenant] = (known[0] + times * bad, known[1] + times * n)


def _is_majority(tenants: Iterable[Units], low: float) -> bool:
    """Tells whether more than half of the tenants do as badly as a release, one of these left out.

    `low`: the lower 95 % bound of the release's share.
    """
    speaking = [units for units in tenants if units[1] >= ENOUGH]
    as_badly = sum(wilson(*units)[1] >= low for units in speaking)
    return 2 * (as_badly - 1) > len(speaking) - 1
