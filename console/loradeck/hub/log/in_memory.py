"""The log in memory: what it folds to and its newest events, of the hub that is active and of those that stand by."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from loradeck.rules.moves.fold import FoldedLog, LogGap
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import MOVES, Event, PointerState
from loradeck.store.sql_log import Store

RECENT = 5000
"""Events kept in memory, for nodes that link and consoles that resume."""


@dataclass(frozen=True, slots=True)
class Move:
    """A committed event that moved a pointer. `before` is the pointer as it was; None: this was its first move."""

    key: PointerKey
    before: PointerState | None
    event: Event


class LogInMemory:
    """The fold of the log, its newest events, the last move of each pointer, and the newest rev about each.

    Reading it all takes seconds where the log is long; `catch_up` reads only what was appended since.
    """

    def __init__(self, store: Store) -> None:
        """Reads the log as the store has it. Blocking."""
        found = store.snapshot()
        self.state = FoldedLog.of(
            epoch=found.epoch,
            rev=found.rev,
            hash=found.hash,
            pointers=found.pointers,
            tenants=found.tenants,
            pools=found.pools,
        )
        # Another hub may have committed since the snapshot was read: what is not folded yet is caught up with later.
        recent = [event for event in store.since(max(0, found.rev - RECENT), RECENT) if event.rev <= found.rev]
        self.recent: deque[Event] = deque(recent, maxlen=RECENT)
        self.last_moves = _last_moves(self.state, recent, store)
        """Event id -> event, of the newest move of each pointer."""
        self.last_revs = store.last_revs()

    def add(self, event: Event) -> Move | None:
        """Folds the next event. Returns it as a move, if it is one.

        Raises: LogGap: it does not follow; nothing was changed.
        """
        before = self.state.pointers.get(event.pointer.key) if event.pointer is not None else None
        self.state.apply(event)
        self.recent.append(event)
        self.last_revs[event.tenant, event.route] = event.rev
        if event.kind not in MOVES or event.pointer is None:
            return None
        if before is not None and before.last_move is not None:
            self.last_moves.pop(before.last_move, None)
        self.last_moves[event.id] = event
        return Move(event.pointer.key, before, event)

    def catch_up(self, store: Store) -> bool:
        """Folds what was appended since. Returns False where that does not follow: the log is another one. Blocking."""
        try:
            while newer := store.since(self.state.rev):
                for event in newer:
                    self.add(event)
        except LogGap:
            return False
        return store.has_hash(self.state.rev, self.state.hash)


def _last_moves(state: FoldedLog, recent: Sequence[Event], store: Store) -> dict[str, Event]:
    known = {event.id: event for event in recent}
    moves: dict[str, Event] = {}
    for pointer in state.pointers.values():
        if pointer.last_move is not None:
            event = known.get(pointer.last_move) or store.event(pointer.last_move)
            if event is not None:
                moves[event.id] = event
    return moves
