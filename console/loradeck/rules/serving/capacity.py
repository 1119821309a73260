"""Capacity: what a promote, or new customers, would change for everybody who shares the same slots.

It looks at engines as they would be filled for good, by `residency.wanted` and the measured traffic, before and after
the change. *Colder* is a route whose live release would lose its slot: whoever asks for it then waits for a load.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from loradeck.rules.serving.residency import always_held, claims, wanted
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.manifest import Form
from loradeck.schemas.table import Pin, RouteResidency, TableEntry

At = TypeVar("At", bound=Hashable)

ALWAYS_SLOTS, ON_DEMAND_SLOTS = 2, 1
"""Slots of a new route: an `always` one needs a second for the release that R goes to."""

GOES_ON_DEMAND = "not every route has slots of its own there, so this one goes on demand"
"""Why the first promote of a route asks: its requests may have to wait while its release is loaded."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """The slots of engines that hold releases of one base, and what they are asked to hold.

    Attributes:
        slots: adapters that they hold.
        base: digest of the weights that they run; None: of any.
        entries: of the routes that are placed there, newest move first.
        new: slots for routes that are to come, which get them before others on demand.
        called: on-demand routes that are asked for now.
    """

    slots: int
    base: str | None = None
    entries: Sequence[TableEntry] = ()
    pins: Sequence[Pin] = ()
    new: int = 0
    called: tuple[PointerKey, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outlook(Generic[At]):
    """What a change would bring: where something would have no slot, and which routes would be colder or warmer.

    Attributes:
        short: where something has no slot then that must have one, and had it before (see `lacking`).
        colder: routes whose live release would lose its slot somewhere, the one that is asked for most first.
        warmer: those that would get one.
        cold: the routes whose live release has no slot, before and after.
        resident: shares of the measured requests that meet a loaded release, before and after; None: nothing measured.
    """

    short: tuple[At, ...]
    colder: tuple[PointerKey, ...]
    warmer: tuple[PointerKey, ...]
    cold: tuple[Mapping[At, frozenset[PointerKey]], Mapping[At, frozenset[PointerKey]]]
    resident: tuple[float | None, float | None]


def cold(at: Holding, traffic: Mapping[PointerKey, float], now_ms: int) -> frozenset[PointerKey]:
    """The routes whose live release would have no slot there.

    Args:
        traffic: requests an hour, of the routes of which they are known.
        now_ms: hub time, by which a route has just moved or not.
    """
    of = claims(at.entries, base=at.base, pins=at.pins, slots=at.slots, now_ms=now_ms, traffic=traffic)
    order = wanted(of, waiting=at.called)
    without = {ref.id for ref in order[max(0, at.slots - at.new) :]}
    return frozenset(entry.key for entry in at.entries if entry.current is not None and entry.current.id in without)


def first_residency(at: Holding) -> RouteResidency:
    """The residency of a route that gets its first release, by one engine's other routes.

    It is `always` where all fit: each `always` route with the slot for where R will go, each on-demand one with one.
    Where not all fit it is on demand, and takes no slot for good from those that are there. Where `always` routes alone
    take every slot there would be none for it on demand either, and whether it fits is for the promote to find.
    """
    here = [
        entry.residency
        for entry in at.entries
        if (ref := entry.current) is not None
        and ref.release.form is Form.ADAPTER
        and at.base in (None, ref.release.served_base)
    ]
    asked = here.count(RouteResidency.ON_DEMAND)
    kept = ALWAYS_SLOTS * here.count(RouteResidency.ALWAYS) + len({pin.release.id for pin in at.pins})
    fits = kept + ON_DEMAND_SLOTS * asked + ALWAYS_SLOTS <= at.slots
    return RouteResidency.ON_DEMAND if not fits and (asked or kept < at.slots) else RouteResidency.ALWAYS


def lacking(at: Holding, colds: frozenset[PointerKey]) -> frozenset[Hashable]:
    """Finds what must have a slot and has none.

    That is pins, `always` routes with where R goes, what is new, and the routes that are to be called: ids of releases,
    numbers, and keys of pointers.

    `colds`: `cold` of it.
    """
    refs = [*(pin.release for pin in at.pins), *(ref for entry in at.entries for ref in entry.refs)]
    sized = {ref.id for ref in refs if ref.release.form is Form.ADAPTER and at.base in (None, ref.release.served_base)}
    held = [release for release in always_held(at.entries, at.pins) if release in sized]
    beyond = (*held[max(0, at.slots - at.new) :], *range(at.new - at.slots))
    return frozenset((*beyond, *colds.intersection(at.called)))


def outlook(
    before: Mapping[At, Holding], after: Mapping[At, Holding], traffic: Mapping[PointerKey, float], now_ms: int
) -> Outlook[At]:
    """Compares engines as they are with what they would be. `traffic` and `now_ms`: as for `cold`."""
    was, will = ({name: cold(at, traffic, now_ms) for name, at in some.items()} for some in (before, after))
    lost, got = frozenset[PointerKey]().union(*was.values()), frozenset[PointerKey]().union(*will.values())

    def lacked(name: At) -> frozenset[Hashable]:
        return lacking(before[name], was[name]) if name in before else frozenset()

    def by_traffic(some: frozenset[PointerKey]) -> tuple[PointerKey, ...]:
        return tuple(sorted(some, key=lambda key: (-traffic.get(key, 0.0), key)))

    return Outlook(
        short=tuple(name for name, at in after.items() if lacking(at, will[name]) - lacked(name)),
        colder=by_traffic(got - lost),
        warmer=by_traffic(lost - got),
        cold=(was, will),
        resident=(resident(before, was, traffic), resident(after, will, traffic)),
    )


def resident(
    at: Mapping[At, Holding], colds: Mapping[At, frozenset[PointerKey]], traffic: Mapping[PointerKey, float]
) -> float | None:
    """The share of the measured requests that meet a loaded release; None: none were measured.

    A route's requests are spread evenly over where it is served. `colds`: `cold` of each holding.
    """
    served, warm = dict[PointerKey, int](), dict[PointerKey, int]()
    for name, held in at.items():
        for entry in held.entries:
            served[entry.key] = served.get(entry.key, 0) + 1
            warm[entry.key] = warm.get(entry.key, 0) + (entry.key not in colds[name])
    total = sum(traffic.get(key, 0.0) for key in served)
    return sum(traffic.get(key, 0.0) * warm[key] / served[key] for key in served) / total if total else None
