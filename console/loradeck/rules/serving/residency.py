"""Which releases an engine keeps loaded: slots go to all currents, then to the top of each `beneath`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from loradeck.schemas.release import Form
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry


@dataclass(frozen=True, kw_only=True)
class Residency:
    """What to do with an engine, in this order: unload, then load.

    `short`: wanted by an entry and without a slot, in the order in which slots would go to them.
    """

    load: tuple[ReleaseRef, ...]
    unload: tuple[str, ...]
    short: tuple[ReleaseRef, ...]


def wanted(entries: Sequence[TableEntry], *, base: str | None = None, pins: Iterable[Pin] = ()) -> list[ReleaseRef]:
    """Adapter releases in the order in which slots go to them.

    Pins and currents first, then the top of each `beneath`, then candidates under preparation, then the rest
    of each `beneath` level by level. A candidate comes after the tops because it needs a slot *beside* what
    it would leave, and must not take the way back of another tenant. `entries`: newest move first. `base`:
    digest of the weights the engine runs; releases of other bases are left out (None: none are).
    """
    refs: list[ReleaseRef] = [pin.release for pin in pins]
    refs += [e.current for e in entries if e.current is not None]
    refs += [e.beneath[0] for e in entries if e.beneath]
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
    """What to load and unload on one engine.

    `loaded`: release ids the engine lists. `busy`: those with answers under way, which are not unloaded.
    Unloads only to make room: first what no entry names (so the release just left stays for an undo while
    there is room), and only where that is not enough, what stands behind the release that needs the slot.
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
