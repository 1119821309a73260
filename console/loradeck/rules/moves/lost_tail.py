"""A lost tail: what a hub has folded of a log, and its database does not hold.

A database loses acknowledged events where an older copy is put back, or a standby that had not got them yet becomes the
primary. A hub that had folded them has proof. It is compared by (rev, hash), so that a log which was written on by
another hub is seen too, also where it ends at the same rev.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.ids import Digest, PointerKey
from loradeck.schemas.log import Event
from loradeck.schemas.lost_tail import LostEvent, LostTail

HoldsEvent = Callable[[int, str], bool]
"""Tells whether a log holds the event with this rev and hash."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """What a hub had folded of a log at one moment: proof of what its database held then.

    Attributes:
        hub: the hub's name.
        epoch: the newest epoch of the log that it knows of.
        state: a copy of its own.
        recent: the newest events, oldest first.
    """

    hub: str
    epoch: int
    state: FoldedLog
    recent: Sequence[Event]


@dataclass(frozen=True, kw_only=True)
class LostPart:
    """A fold that a log does not hold.

    Attributes:
        fold: as it was.
        tail: what is missing, for people.
        hashes: of the missing events.
        pointers: those that the missing events concern.
    """

    fold: Fold
    tail: LostTail
    hashes: tuple[Digest, ...]
    pointers: tuple[PointerKey, ...]


def lost_part(fold: Fold, holds: HoldsEvent) -> LostPart | None:
    """Returns what a log lacks of a fold; None: it holds everything.

    Where even the oldest event that the fold remembers is missing, every pointer counts as concerned.
    """
    state = fold.state
    if holds(state.rev, state.hash):
        return None
    # The hash of an event covers all before it: what a log lacks is an end of them.
    first, end = 0, len(fold.recent)
    while first < end:
        middle = (first + end) // 2
        event = fold.recent[middle]
        first, end = (middle + 1, end) if holds(event.rev, event.hash) else (first, middle)
    missing = fold.recent[first:]
    kept = missing[0].rev - 1 if missing and holds(missing[0].rev - 1, missing[0].prev_hash) else None
    touched = {key for event in missing for key in state.pointers_of(event)} if kept is not None else state.routes()
    tail = LostTail(
        hub=fold.hub,
        epoch=fold.epoch,
        rev=state.rev,
        kept_rev=kept,
        events=tuple(_said(event) for event in missing if event.is_listed),
    )
    return LostPart(
        fold=fold, tail=tail, hashes=tuple(event.hash for event in missing), pointers=tuple(sorted(touched))
    )


def _said(event: Event) -> LostEvent:
    return LostEvent(
        rev=event.rev,
        at_ms=event.at_ms,
        kind=event.kind,
        tenant=event.tenant,
        route=event.route,
        epoch=event.epoch,
        generation=event.generation,
        release=event.to_release,
        actor=event.actor,
        reason=event.reason,
    )
