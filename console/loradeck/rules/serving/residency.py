"""Residency: which releases an engine keeps loaded, and whether a promote leaves room for the release that it leaves.

Slots go to pins; `always` routes and where R would go there; where R would go on on-demand routes that are asked for
often enough to have a slot themselves, for a day after their move and in half of the slots that are left then; the
currents of on-demand routes that requests wait for; those of moves a moment ago, in a quarter of the slots; candidates;
what is prepared; what gateways say will be asked for; the currents of the other on-demand routes by their traffic; the
rest. These others' currents turn no current out, since nobody waits for them; what stands before them may turn one of
them out. What requests wait for, and what stands before that, turns one out that answers too, once its answers have
ended.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.manifest import Form
from loradeck.schemas.table import Pin, ReleaseRef, RouteResidency, TableEntry

PRIOR_COLD = "prior cold"
"""Why a move of an on-demand route asks: nobody would get the release that it goes back to until that is loaded."""


@dataclass(frozen=True, kw_only=True)
class Residency:
    """What to unload, then load, on one engine.

    Attributes:
        fetch: releases that are to have a slot once their files are on the node. What holds it now stays until then.
        short: releases that entries want and that get no slot, in the order in which slots would go to them.
        drain: releases whose slots are needed and that answer somebody: nobody else is to be admitted to them.
    """

    load: tuple[ReleaseRef, ...]
    unload: tuple[str, ...]
    short: tuple[ReleaseRef, ...]
    drain: tuple[str, ...] = ()
    fetch: tuple[ReleaseRef, ...] = ()


class _Claim(IntEnum):
    """How far a release may go for a slot."""

    FREE = 0  # it takes one that is free, or that no pointer's current release holds
    IDLE = 1  # it turns out a release behind it that answers nobody
    ANY = 2  # it turns out one that answers too, once its answers have ended


_Order = dict[str, tuple[ReleaseRef, _Claim]]
"""Releases by id, in the order in which slots go to them, each with its claim."""


PRIOR_KEPT_MS = DAY_MS
"""How long after a move an on-demand route's prior comes before other routes' currents, in milliseconds."""

MOVED_NOW_MS = 60 * 1000
"""How long after a move an on-demand route's current is loaded although nobody waits for it, in milliseconds."""

BEHIND_S = 10.0
"""Seconds after which a release that nobody needs now is loaded before what requests wait for, one at a time."""

HALF_LIFE_S = 600.0
"""Seconds after which a request counts half in what a pointer is asked for."""


def asked_lately(before: float, requests: int, seconds: float) -> float:
    """Counts what a pointer is asked for: its requests, of which old ones count less.

    Args:
        before: the figure so many `seconds` ago.
        requests: those that came since.
    """
    return before * math.exp2(-seconds / HALF_LIFE_S) + requests


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The releases that may have a slot of one engine, by what gives each its claim; who waits does not matter here.

    It is made of all entries, and holds until a table, a pin or the counted traffic is another, or a move grows old.
    Releases of other bases, and the base alone, are in none of it.

    Attributes:
        slots: of the engine.
        always: releases that stay in memory whatever else is asked for.
        kept: these, and where R goes on on-demand routes that are asked for as often as those that have slots.
        moved: currents of on-demand routes that have moved a moment ago, the newest first.
        coming: candidates, and what is prepared.
        on_demand: the entries of on-demand routes, the one that is asked for most first.
        quiet: their currents, in the same order.
        rest: what lies beneath, in the order in which it would get slots.
    """

    slots: int
    always: frozenset[str]
    kept: tuple[ReleaseRef, ...]
    moved: tuple[ReleaseRef, ...]
    coming: tuple[ReleaseRef, ...]
    on_demand: Mapping[PointerKey, TableEntry]
    quiet: _Order
    rest: _Order

    def currents(self, keys: Iterable[PointerKey]) -> list[ReleaseRef]:
        """Returns the current releases of some on-demand pointers."""
        entries = (self.on_demand[key] for key in keys if key in self.on_demand)
        return [entry.current for entry in entries if entry.current is not None and entry.current.id in self.quiet]


def claims(
    entries: Sequence[TableEntry],
    *,
    base: str | None = None,
    pins: Iterable[Pin] = (),
    slots: int = 0,
    now_ms: int = 0,
    traffic: Mapping[PointerKey, float] | None = None,
) -> Claims:
    """Finds what may have a slot of an engine.

    What is to come lies after the tops of `always` routes because it needs a slot *beside* the live release, and must
    not take another tenant's rollback target.

    Args:
        entries: newest move first.
        base: digest of the weights the engine runs; releases of other bases are left out (None: none are).
        slots: of the engine; half of what pins and `always` routes leave is for priors of moves within the day.
        now_ms: the wall clock, which the age of a move is counted by.
        traffic: requests of each pointer; those of on-demand routes that are missing come last.
    """

    def here(refs: Iterable[ReleaseRef | None]) -> Iterable[ReleaseRef]:
        return (ref for ref in refs if ref is not None and _is_for(ref, base))

    asked = [e for e in entries if e.residency is RouteResidency.ON_DEMAND]
    moved = _moved_within(asked, MOVED_NOW_MS, now_ms)
    always = [ref for ref in _always(entries, pins) if _is_for(ref, base)]
    fresh = [e for e in _moved_within(asked, PRIOR_KEPT_MS, now_ms) if e.beneath and _is_for(e.beneath[0], base)]
    left = max(0, slots - len({ref.id for ref in always}))
    if traffic is not None and fresh:  # after R from a release that is on disk, the prior may be there too
        often = sorted((traffic.get(e.key, 0.0) for e in asked if any(here([e.current]))), reverse=True)
        least = often[left - 1] if 0 < left < len(often) else 0.0
        fresh = [e for e in fresh if traffic.get(e.key, 0.0) >= least]
    kept = [*always, *(e.beneath[0] for e in fresh[: left // 2])]
    if traffic is not None:
        asked.sort(key=lambda entry: -traffic.get(entry.key, 0.0))
    coming = [e.candidate.release for e in entries if e.candidate is not None]
    rest = [e.beneath[0] for e in asked if e.beneath]
    for depth in range(1, max((len(e.beneath) for e in entries), default=0)):
        rest += [e.beneath[depth] for e in entries if len(e.beneath) > depth]
    return Claims(
        slots=slots,
        always=frozenset(ref.id for ref in always),
        kept=tuple(kept),
        moved=tuple(here(e.current for e in moved)),
        coming=(*here(coming), *here(e.preparing for e in entries)),
        on_demand={e.key: e for e in asked},
        quiet=_each(here(e.current for e in asked), _Claim.FREE),
        rest=_each(here(rest), _Claim.IDLE),
    )


def _each(refs: Iterable[ReleaseRef], claim: _Claim) -> _Order:
    return {ref.id: (ref, claim) for ref in refs}


def _ordered(claims: Claims, waiting: Iterable[PointerKey], hinted: Collection[PointerKey]) -> _Order:
    """Puts an engine's claims in the order in which slots go to them. Each release has the first of its claims.

    In a union the first of equal keys has the place, and the last one the value.
    """
    called = [*waiting]
    tops = (claims.on_demand[key].beneath[:1] for key in called if key in claims.on_demand)
    beneath = _each((ref for top in tops for ref in top if ref.id in claims.rest), _Claim.IDLE)
    announced = claims.currents(key for key in claims.on_demand if key in hinted) if hinted else ()
    coming = _each([*claims.moved[: max(1, claims.slots // 4)], *claims.coming, *announced], _Claim.IDLE)
    unyielding = _each([*claims.kept, *claims.currents(called)], _Claim.ANY)
    order = unyielding | coming | claims.quiet | beneath | claims.rest
    return order | claims.quiet | coming | unyielding


def wanted(
    claims: Claims, *, waiting: Sequence[PointerKey] = (), hinted: Collection[PointerKey] = ()
) -> list[ReleaseRef]:
    """Adapter releases in the order in which slots go to them.

    Args:
        waiting: on-demand pointers that requests wait for, in the order of their turns.
        hinted: on-demand pointers whose requests are coming.
    """
    return [ref for ref, _ in _ordered(claims, waiting, hinted).values()]


def _moved_within(entries: Iterable[TableEntry], age_ms: int, now_ms: int) -> list[TableEntry]:
    return [e for e in entries if e.moved_ms is not None and now_ms - e.moved_ms < age_ms]


def _always(entries: Iterable[TableEntry], pins: Iterable[Pin]) -> list[ReleaseRef]:
    always = [e for e in entries if e.residency is RouteResidency.ALWAYS]
    refs = [*(pin.release for pin in pins), *(e.current for e in always), *(e.beneath[0] for e in always if e.beneath)]
    return [ref for ref in refs if ref is not None]


def with_room(releases: Collection[str], claims: Claims) -> set[str]:
    """Returns which of some releases get a slot of an engine in the end, where requests wait for them long enough.

    They get none where what comes before such releases takes all of them.
    """
    before = {ref.id for ref in claims.kept}
    return set(releases) if len(before) < claims.slots else before.intersection(releases)


def _is_for(ref: ReleaseRef, base: str | None) -> bool:
    return ref.release.form is Form.ADAPTER and (base is None or ref.release.base == base)


def plan(
    claims: Claims,
    loaded: Collection[str],
    *,
    busy: Collection[str] = (),
    answering: Collection[str] = (),
    waiting: Sequence[PointerKey] = (),
    hinted: Collection[PointerKey] = (),
    stored: Collection[str] | None = None,
) -> Residency:
    """Plans the loads and unloads of one engine.

    It unloads only to make room: first releases that no entry names (so the release just left stays for an undo while
    there is room), and only if that is not enough, releases that come after the one that needs the slot. What is always
    there goes last of all: where another one that comes after answers somebody, the end of its answers is waited for.

    Args:
        loaded: release ids that the engine lists.
        busy: those that are not to be unloaded, whatever needs a slot.
        answering: those with answers under way.
        waiting: as for `wanted`, like those whose requests are coming.
        stored: digests of the adapters whose files are on the node; None: all are. Nothing makes room for another one.
    """
    order, always, slots = _ordered(claims, waiting, hinted), claims.always, claims.slots
    place = {release: i for i, release in enumerate(order)}
    nowhere = len(order)
    spare = sorted((r for r in loaded if r not in busy), key=lambda r: (-place.get(r, nowhere), r))
    victims = [r for r in spare if r not in answering]
    answer = [r for r in spare if r in answering]
    free = slots - len(loaded)
    load: list[ReleaseRef] = []
    fetch: list[ReleaseRef] = []
    unload: list[str] = []
    drain: list[str] = []

    def is_behind(some: list[str], ref: ReleaseRef) -> bool:
        return bool(some) and place.get(some[0], nowhere) > place[ref.id]

    for ref, claim in [*order.values()][: max(0, slots)]:
        if ref.id in loaded:
            continue
        absent = stored is not None and ref.release.adapter not in stored
        if free <= 0:
            idle = is_behind(victims, ref)
            gives_way = is_behind(answer, ref) and (not idle or (victims[0] in always and answer[0] not in always))
            if claim is _Claim.ANY and gives_way:
                if absent:
                    fetch.append(ref)
                else:
                    drain.append(answer.pop(0))
                continue
            if not idle or (claim is _Claim.FREE and victims[0] in order and order[victims[0]][1] is not _Claim.IDLE):
                continue
            victim = victims.pop(0)
            if not absent:
                unload.append(victim)
            free += 1
        (fetch if absent else load).append(ref)
        free -= 1
    held = (set(loaded) - set(unload)) | {ref.id for ref in (*load, *fetch)}
    short = tuple(ref for release, (ref, _) in order.items() if release not in held)
    return Residency(load=tuple(load), unload=tuple(unload), short=short, drain=tuple(drain), fetch=tuple(fetch))


def needed(claims: Claims, waiting: Iterable[PointerKey]) -> dict[str, int]:
    """The releases that are needed now, and in which order they are loaded where they have slots.

    What is always there comes first, then what requests wait for, then the currents of moves a moment ago. It is not
    the order of slots: on-demand priors keep theirs, but nobody waits for them, and an engine that has just begun has
    slots for all.

    `waiting`: as for `wanted`.
    """
    always = (ref for ref in claims.kept if ref.id in claims.always)
    found = dict.fromkeys(ref.id for ref in (*always, *claims.currents(waiting), *claims.moved))
    return {release: place for place, release in enumerate(found)}


def in_turn(
    refs: Iterable[ReleaseRef], places: Mapping[str, int], *, loading: Collection[str], waits: bool, since_s: float
) -> list[ReleaseRef]:
    """Returns releases in the order in which they are loaded.

    While requests wait, what nobody needs is loaded one at a time and last, and once in `BEHIND_S` first: requests that
    never end would keep a prior on the disk for ever.

    Args:
        places: the order of those that are needed now (`needed`).
        loading: releases whose loads are under way.
        waits: whether requests wait.
        since_s: seconds since a load of what nobody needed began on this engine.
    """
    refs = list(refs)
    turns = sorted((ref for ref in refs if ref.id in places), key=lambda ref: places[ref.id])
    others = [ref for ref in refs if ref.id not in places]
    if not waits:
        return turns + others
    others = others[: int(places.keys() >= set(loading))]
    return others + turns if since_s >= BEHIND_S else turns + others


class PriorRoom(StrEnum):
    """What a promote finds on an engine, the most room first."""

    FITS = "fits"  # slots for the release and for the one that it leaves
    COLD = "cold"  # an on-demand route, and no slot for the one that it leaves
    FULL = "full"  # no slot for the release, or an `always` route without one for the release that it leaves


def prior_room(
    moved: TableEntry, others: Sequence[TableEntry], slots: int, *, base: str, pins: Iterable[Pin] = (), now_ms: int
) -> PriorRoom:
    """Tells whether an engine has slots for a pointer's release and its prior.

    Args:
        moved: the pointer's entry as the promote would leave it, with the left release on top of `beneath`.
        others: of the other pointers on this engine.
    """
    entries = (moved, *sorted(others, key=lambda entry: -(entry.moved_ms or 0)))
    order = wanted(claims(entries, base=base, pins=pins, slots=slots, now_ms=now_ms), waiting=(moved.key,))
    short = {ref.id for ref in order[max(0, slots) :]}
    assert moved.current is not None
    if moved.current.id in short:
        return PriorRoom.FULL
    if not moved.beneath or moved.beneath[0].id not in short:
        return PriorRoom.FITS
    return PriorRoom.COLD if moved.residency is RouteResidency.ON_DEMAND else PriorRoom.FULL


def promote_asks(room: PriorRoom) -> str | None:
    """Why a promote is asked about: R would then go to a release that is to be loaded first. None: it is not."""
    return PRIOR_COLD if room is PriorRoom.COLD else None


def always_held(entries: Sequence[TableEntry], pins: Iterable[Pin]) -> tuple[str, ...]:
    """The releases that stay in memory whatever else is asked for: what persons pinned, what `always` routes serve, and
    where R would go there. In the order in which slots go to them.
    """
    return tuple(dict.fromkeys(ref.id for ref in _always(entries, pins)))
