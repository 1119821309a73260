"""Residency: which releases an engine keeps loaded; slots go to all currents, then to the top of each `beneath`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from loradeck.schemas.release import Form
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry


@dataclass(frozen=True, kw_only=True)
class Residency:
    """What to unload, then load, on one engine.

    `short`: releases that entries want and that get no slot, in the order in which slots would go to them.
    """

    load: tuple[ReleaseRef, ...]
    unload: tuple[str, ...]
    short: tuple[ReleaseRef, ...]


def wanted(entries: Sequence[TableEntry], *, base: str | None = None, pins: Iterable[Pin] = ()) -> list[ReleaseRef]:
    """Adapter releases in the order in which slots go to them.

    Pins and currents first, then the top of each `beneath`, then candidates, then releases under preparation, then the
    rest of each `beneath` level by level. What is to come lies after the tops because it needs a slot *beside* the
    live release, and must not take another tenant's rollback target.

    Args:
        entries: newest move first.
        base: digest of the weights the engine runs; releases of other bases are left out (None: none are).
    """
    refs: list[ReleaseRef] = [pin.release for pin in pins]
    refs += [e.current for e in entries if e.current is not None]
    refs += [e.beneath[0] for e in entries if e.beneath]
    refs += [e.candidate.release for e in entries if e.candidate is not None]
    refs += [e.preparing for e in entries if e.preparing is not None]
    for depth in range(1, max((len(e.beneath) for e in entries), default=0)):
        refs += [e.beneath[depth] for e in entries if len(e.beneath) > depth]
    unique = {ref.id: ref for ref in reversed(refs)}
    order = dict.fromkeys(ref.id for ref in refs)
    return [
        unique[i]
        for i in order
        if unique[i].release.form is Form.ADAPTER and (base is None or unique[i].release.served_base == base)
    ]


def plan(
    entries: Sequence[TableEntry],
    slots: int,
    loaded: Collection[str],
    *,
    base: str | None = None,
    pins: Iterable[Pin] = (),
    busy: Collection[str] = (),
) -> Residency:
    """Plans the loads and unloads of one engine.

    It unloads only to make room: first releases that no entry names (so the release just left stays for an undo while
    there is room), and only if that is not enough, releases that come after the one that needs the slot.

    Args:
        loaded: release ids that the engine lists.
        busy: those with answers under way, which are not unloaded.
    """
    order = wanted(entries, base=base, pins=pins)
    place = {ref.id: i for i, ref in enumerate(order)}
    nowhere = len(order)
    victims = sorted((r for r in loaded if r not in busy), key=lambda r: (-place.get(r, nowhere), r))
    free = slots - len(loaded)
    load: list[ReleaseRef] = []
    unload: list[str] = []
    for ref in order[: max(0, slots)]:
        if ref.id in loaded:
            continue
        if free <= 0:
            if not victims or place.get(victims[0], nowhere) <= place[ref.id]:
                continue
            unload.append(victims.pop(0))
            free += 1
        load.append(ref)
        free -= 1
    held = (set(loaded) - set(unload)) | {ref.id for ref in load}
    return Residency(load=tuple(load), unload=tuple(unload), short=tuple(ref for ref in order if ref.id not in held))
