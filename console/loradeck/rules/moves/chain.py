"""The hash chain of the log: how an event is sealed into it, and how a log is verified.

Each event's hash covers all its other fields, the previous event's hash included. So one known hash suffices to
recognise the log it came from, and no event can be changed, dropped or inserted without changing every later hash.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from loradeck.schemas.ids import digest_of
from loradeck.schemas.log import GENESIS, MOVES, Draft, Event, PointerState


@dataclass(frozen=True, kw_only=True)
class ChainBreak:
    """The first event at which a log's chain is broken, and why."""

    rev: int
    why: str


def event_hash(event: Event) -> str:
    """SHA-256 (hex) of the canonical JSON of every field but `hash`, omitting those at their default."""
    return digest_of(event.model_dump(mode="json", exclude={"hash"}, exclude_defaults=True))


def seal(draft: Draft, *, rev: int, id: str, txn: str, epoch: int, at_ms: int, prev_hash: str) -> Event:
    """Seals a draft into the log as the event with this rev.

    Fills in the facts that rules cannot know: the event's id in `last_move` and in the quarantines it sets (drafted
    with an empty `event`), time and epoch in `moved_ms` and `moved_epoch`. Kinds that move nothing change only the
    quarantines.
    """
    pointer = draft.pointer
    if pointer is not None:
        pointer = _stamped(pointer, id=id, epoch=epoch, at_ms=at_ms, moves=draft.kind in MOVES)
    place = {"rev": rev, "id": id, "txn": txn, "epoch": epoch, "at_ms": at_ms, "prev_hash": prev_hash}
    event = Event.model_validate({**dict(draft), "pointer": pointer, **place, "hash": GENESIS})
    return event.model_copy(update={"hash": event_hash(event)})


def _stamped(pointer: PointerState, *, id: str, epoch: int, at_ms: int, moves: bool) -> PointerState:
    quarantined = tuple(q if q.event else q.model_copy(update={"event": id}) for q in pointer.quarantined)
    update: dict[str, object] = {"quarantined": quarantined}
    if moves:
        update |= {"last_move": id, "moved_ms": at_ms, "moved_epoch": epoch}
    return pointer.model_copy(update=update)


def verify(events: Iterable[Event], prev_hash: str = GENESIS, first_rev: int = 1) -> ChainBreak | None:
    """Verifies a stretch of the log that follows `prev_hash`; None if it is whole, else where it first breaks."""
    rev, prev, epoch = first_rev, prev_hash, 0
    for event in events:
        if event.rev != rev:
            return ChainBreak(rev=rev, why=f"rev {rev} is missing: the next event is rev {event.rev}")
        if event.prev_hash != prev:
            return ChainBreak(rev=rev, why=f"rev {rev} does not follow the event before it")
        if event.hash != event_hash(event):
            return ChainBreak(rev=rev, why=f"rev {rev} was changed after it was committed: its hash does not fit")
        if event.epoch < epoch:
            return ChainBreak(rev=rev, why=f"rev {rev} was committed under epoch {event.epoch}, after epoch {epoch}")
        rev, prev, epoch = rev + 1, event.hash, event.epoch
    return None


@dataclass
class ChainCheck:
    """Checks the part of a log that a reader holds: each event once, as it comes, in any order and with gaps.

    `broken` names the first fault that was found; None: there is none.
    """

    broken: str | None = None
    _hashes: dict[int, str] = field(default_factory=dict)
    _prev: dict[int, str] = field(default_factory=dict)

    def add(self, events: Iterable[Event]) -> None:
        """Hashes new events, and compares them with those of their neighbours that are held."""
        for event in events:
            if self._hashes.get(event.rev) == event.hash:
                continue
            if event_hash(event) != event.hash:
                self._fault(f"rev {event.rev} does not have its own hash")
            self._hashes[event.rev] = event.hash
            self._prev[event.rev] = event.prev_hash
            before = self._hashes.get(event.rev - 1, GENESIS if event.rev == 1 else None)
            after = self._prev.get(event.rev + 1)
            if before is not None and before != event.prev_hash:
                self._fault(f"between rev {event.rev - 1} and {event.rev}")
            if after is not None and after != event.hash:
                self._fault(f"between rev {event.rev} and {event.rev + 1}")

    def _fault(self, where: str) -> None:
        self.broken = self.broken or where
