"""Reassignment: how routes get from the nodes that serve them to those that shall, without a gap and not all at once.

A route is first assigned to the wanted nodes as well. One that is wanted no longer leaves once they are ready: until
then it goes on serving, and a lost one goes on being counted. A route that has too few live nodes goes first.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from loradeck.schemas.ids import Name, PointerKey
from loradeck.schemas.replica_state import AckState

AT_ONCE = 32
"""Most routes that are on their way because others shall serve them; those that lack a live node are not counted."""

A_COMMIT = 256
"""Most routes that take a step in one commit, so that no press of R waits long behind it."""


LOADS_WITHIN_S = 60.0
"""Seconds that a node has, once it has flipped to an on-demand release, to load and prove it before others leave."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a route stands.

    Attributes:
        now: the nodes that it is assigned to.
        wanted: those that shall serve it.
        ready: nodes that serve its newest release, loaded and proven.
        live: nodes that are not lost.
    """

    now: tuple[Name, ...]
    wanted: tuple[Name, ...]
    ready: Collection[Name]
    live: Collection[Name]

    @property
    def is_short(self) -> bool:
        """Whether fewer live nodes are assigned than are wanted."""
        return sum(name in self.live for name in self.now) < len(self.wanted)

    @property
    def is_under_way(self) -> bool:
        """Whether the wanted nodes are assigned, and others are to leave."""
        return set(self.wanted) < set(self.now)


def has_joined(state: AckState, *, on_demand: bool, free: int, flipped_s: float) -> bool:
    """Tells whether a node that has flipped to a route's release serves it well enough for others to leave.

    It has loaded and proven it. On demand that is not waited for where no slot is `free`, since it would be loaded once
    it is asked for, nor for ever: `flipped_s` is since when it has flipped, in seconds.
    """
    if state in (AckState.PROVEN, AckState.LISTED):
        return True
    return on_demand and (free <= 0 or flipped_s > LOADS_WITHIN_S)


def step(at: Standing) -> tuple[Name, ...]:
    """The nodes that a route is assigned to next, the wanted ones first; those of now where it is to wait.

    Nobody leaves before the wanted ones are ready. Where no node is wanted, because the pool has none, all stay.
    """
    if not at.wanted:
        return at.now
    if set(at.wanted) <= set(at.now) and all(name in at.ready for name in at.wanted):
        return at.wanted
    return (*at.wanted, *(name for name in at.now if name not in at.wanted))


def steps(routes: Mapping[PointerKey, Standing]) -> dict[PointerKey, tuple[Name, ...]]:
    """The routes that take a step now, those that lack a live node first, with the nodes that they are assigned to."""
    under_way = sum(at.is_under_way and not at.is_short for at in routes.values())
    found: dict[PointerKey, tuple[Name, ...]] = {}
    for key, at in sorted(routes.items(), key=lambda one: (not one[1].is_short, one[0])):
        after = step(at)
        if set(after) == set(at.now):
            continue
        if not set(after) <= set(at.now) and not at.is_short:
            if under_way >= AT_ONCE:
                continue
            under_way += 1
        found[key] = after
        if len(found) == A_COMMIT:
            break
    return found


def why(at: Standing, after: Sequence[Name], trouble: Mapping[Name, str]) -> str:
    """Says for people why a route is assigned otherwise. `trouble`: what is the matter with nodes, such as "lost"."""
    joining = [name for name in after if name not in at.now]
    leaving = [name for name in at.now if name not in after]
    parts = []
    if joining:
        ill = [f"{name} is {trouble[name]}" for name in at.now if name in trouble]
        parts.append(f"{' and '.join(joining)} to serve it: {', '.join(ill) or 'the pool is shared out'}")
    if leaving:
        parts.append(f"{' and '.join(leaving)} to leave it: {' and '.join(at.wanted)} ready")
    return "; ".join(parts)
