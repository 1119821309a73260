"""The queue of requests whose release has to be loaded first: who may wait, and in which order releases are loaded.

A request for an on-demand route waits at its node's router while the route's release is not loaded there. It is
admitted once that is, by the entry that is then in force: a move meanwhile changes what it waits for, and nothing waits
for a release that was left.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil

from loradeck.rules.serving.flip import RETRY_AFTER_S
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.manifest import Form
from loradeck.schemas.table import ColdQueueLimits, RouteResidency, TableEntry

LONGEST_RETRY_S = 60
"""Most seconds after which a caller is told to try again."""


COMING_S = 5.0
"""Seconds for which a release is wanted after a gateway has announced a request for it."""

MOST_COMING = 4
"""Most pointers of one node for which announced requests are heeded at a time."""


def heeded(
    coming: Mapping[PointerKey, float], key: PointerKey, now: float, most: int = MOST_COMING
) -> dict[PointerKey, float] | None:
    """Returns the pointers with an announced request, with one more among them; None: the one more is not heeded.

    One of a tenant is heeded at a time, so that nobody's many routes keep others out.

    Args:
        coming: those that were said to be before, each with the time until which it is wanted, in seconds.
        most: how many there are at most.
    """
    left = {other: until for other, until in coming.items() if until > now}
    if len(left) >= most or any(other[0] == key[0] for other in left):
        return None
    return {**left, key: now + COMING_S}


def is_awaited(entry: TableEntry, *, flipped: bool, pinned: bool, engine: bool) -> bool:
    """Tells whether requests for a pointer whose release is not loaded wait for its load.

    Args:
        flipped: the router has flipped to the entry; before that somebody else answers, or nobody.
        pinned: this node has chosen another release for it.
        engine: one here runs the release's base, and so can load it.
    """
    on_demand = entry.residency is RouteResidency.ON_DEMAND and not entry.suspended
    adapter = entry.current is not None and entry.current.release.form is Form.ADAPTER
    return on_demand and adapter and flipped and engine and not pinned


@dataclass(frozen=True)
class Place:
    """Whether one more request may wait, and the tenant whose newest waiting request makes room for it, if any."""

    waits: bool
    displaces: str | None = None


def place(waiting: Mapping[str, int], tenant: str, limits: ColdQueueLimits) -> Place:
    """Decides whether one more request of a tenant may wait.

    While the node's queue is full, a request takes the place of the newest one of the tenant that has the most waiting,
    if it has at least two more than this one's tenant: nobody's flood keeps others out, and two tenants that have as
    many do not displace each other in turn.

    `waiting`: how many requests of each tenant wait.
    """
    mine = waiting.get(tenant, 0)
    if mine >= limits.tenant:
        return Place(waits=False)
    if sum(waiting.values()) < limits.waiting:
        return Place(waits=True)
    most = max(waiting, key=lambda name: (waiting[name], name), default=tenant)
    return Place(waits=True, displaces=most) if waiting.get(most, 0) > mine + 1 else Place(waits=False)


@dataclass(frozen=True)
class ColdRoute:
    """A pointer that requests wait for. `since`: when the oldest of them came, in any unit."""

    key: PointerKey
    since: float


@dataclass(frozen=True)
class Turns:
    """How often it was each tenant's turn, for round robin: a tenant that comes back has no turns saved up.

    `now`: the turn of those of which none is kept.
    """

    now: int = 0
    of: Mapping[str, int] = field(default_factory=dict)

    def turn(self, tenant: str) -> int:
        """The turn at which a tenant's next release is loaded; the lowest is next."""
        return max(self.of.get(tenant, 0), self.now)

    def taken(self, tenant: str, waiting: Collection[str]) -> "Turns":
        """The turns after a release of a tenant was loaded, or could not be. `waiting`: tenants that wait on."""
        after = {**self.of, tenant: self.turn(tenant) + 1}
        now = min((max(after.get(name, 0), self.now) for name in waiting), default=max(after.values()))
        return Turns(now, {name: turn for name, turn in after.items() if turn > now})


def in_turn(routes: Iterable[ColdRoute], turns: Turns) -> list[PointerKey]:
    """Pointers in the order in which their releases are loaded: round robin over tenants, of each the oldest first."""
    seen = Counter[str]()
    order = []
    for route in sorted(routes, key=lambda route: (route.since, route.key)):
        tenant = route.key[0]
        order.append((turns.turn(tenant) + seen[tenant], route.since, route.key))
        seen[tenant] += 1
    return [key for _, _, key in sorted(order)]


def is_overdue(named_s: float, limits: ColdQueueLimits) -> bool:
    """Tells whether a release gives its turn up, for which a request has waited in vain.

    Otherwise one that no engine has a slot for, and that is asked for without a pause, kept others from being loaded.

    `named_s`: how long the agent was told to load it: most of the time that a request waits, or it has just begun.
    """
    return named_s >= limits.seconds / 2


def retry_after_s(ahead: int, load_s: float | None) -> int:
    """Seconds after which a caller is told to try again whose request may not wait.

    Args:
        ahead: releases that are to be loaded before.
        load_s: how long one takes; None: none was loaded yet.
    """
    return RETRY_AFTER_S if load_s is None else min(LONGEST_RETRY_S, max(1, ceil(ahead * load_s)))
