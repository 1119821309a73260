"""Which engines of a node run: those that always run, then those whose base is wanted, as far as memory reaches.

A base is wanted by live and pinned releases, by candidates, by those being prepared, and for `hold_prior` after a move
by the release it left and those beneath: so a rollback to another base finds its engine running.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One engine as it is configured. `base`: digest of its weights, None while unknown."""

    name: str
    base: str | None
    always: bool = True
    memory_gb: float = 0.0


def wanted_bases(
    entries: Sequence[TableEntry],
    *,
    pins: Iterable[Pin] = (),
    now_ms: int,
    hold_prior_s: float,
    swaps: Collection[PointerKey] = (),
) -> list[str]:
    """Digests of the wanted bases, in the order in which they get memory.

    Bases of live and pinned releases come first, then of candidates and those being prepared, then of those held for a
    rollback, the newest move first.

    Args:
        entries: newest move first.
        swaps: pointers whose promote may stop the live release's engine, because memory does not hold both and a person
            accepted that: their prepared release comes before the live one.
    """
    live: list[ReleaseRef] = [pin.release for pin in pins]
    preparing: list[ReleaseRef] = []
    held: list[ReleaseRef] = []
    for entry in entries:
        swap = entry.key in swaps and entry.preparing is not None
        if entry.current is not None:
            (held if swap else live).append(entry.current)
        if entry.candidate is not None:
            preparing.append(entry.candidate.release)
        if entry.preparing is not None:
            (live if swap else preparing).append(entry.preparing)
        if entry.moved_ms is not None and now_ms - entry.moved_ms < hold_prior_s * 1000:
            held += [ref for ref in (*entry.beneath, entry.left) if ref is not None]
    return list(dict.fromkeys(ref.release.served_base for ref in (*live, *preparing, *held)))


def to_run(engines: Sequence[Engine], bases: Sequence[str], memory_gb: float | None) -> frozenset[str]:
    """Names of the engines to run: all that always run, then each that still fits, in the order of `bases`.

    `memory_gb`: memory of the node for its engines; None runs all that are wanted.
    """
    chosen = [engine for engine in engines if engine.always]
    used = sum(engine.memory_gb for engine in chosen)
    for base in bases:
        for engine in engines:
            fits = memory_gb is None or used + engine.memory_gb <= memory_gb
            if engine.base == base and engine not in chosen and fits:
                chosen.append(engine)
                used += engine.memory_gb
    return frozenset(engine.name for engine in chosen)
