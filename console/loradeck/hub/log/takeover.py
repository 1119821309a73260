"""A hub that stands by: it folds the log as the active hub extends it, and takes the lease once that one's is over.

`rules.moves.lease` says when. So a hub that takes over has the log in memory, and knows whether it may move something
at once or has to wait for its nodes first. What it has folded and the database does not hold is kept as proof
(`rules.moves.lost_tail`).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import methodcaller

from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.moves import lease as rules
from loradeck.rules.moves.fold import FoldedLog, LogGap
from loradeck.rules.moves.lease import LOOK_S, TTL_S, left_s, needs_settling, next_look_s
from loradeck.rules.moves.lost_tail import Fold, LostPart, lost_part
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import MOVES, Event, PointerState
from loradeck.store.interface import Head, LeaseHeld, StoreError
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.log.takeover")

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

    def fold(self, hub: str, *, epoch: int = 0) -> Fold:
        """Returns a copy of what is folded now, as proof of what the database of this hub held.

        `epoch`: the newest that the hub has read beside the log.
        """
        state = self.state
        copy = FoldedLog.of(
            epoch=state.epoch,
            rev=state.rev,
            hash=state.hash,
            pointers=state.pointers.values(),
            tenants=state.tenants.values(),
            pools=state.pools,
        )
        return Fold(hub=hub, epoch=max(epoch, state.epoch), state=copy, recent=tuple(self.recent))


def _last_moves(state: FoldedLog, recent: Sequence[Event], store: Store) -> dict[str, Event]:
    known = {event.id: event for event in recent}
    moves: dict[str, Event] = {}
    for pointer in state.pointers.values():
        if pointer.last_move is not None:
            event = known.get(pointer.last_move) or store.event(pointer.last_move)
            if event is not None:
                moves[event.id] = event
    return moves


@dataclass(frozen=True, kw_only=True)
class TakenLease:
    """A hold of the lease, which this hub has taken, and the log as it then is.

    Attributes:
        settles: it waits for its nodes before it moves anything.
        lost: what this hub had folded and the database does not hold.
        ttl_s: seconds for which it holds the lease without a renewal; None: for as long as its database is open.
        asked: when it asked for the lease, by `clock`.
        clock: monotonic seconds, in which the time that the process was stopped counts.
    """

    log: LogInMemory
    settles: bool
    lost: tuple[LostPart, ...] = ()
    ttl_s: float | None
    asked: float
    clock: Callable[[], float]


@dataclass(eq=False)
class Standby:
    """Waits for the lease of a database.

    `_name` is the hub's, for people, and `_address` where callers reach it; other hubs tell theirs. `_clock` gives
    monotonic seconds, in which the time that the process was stopped counts. `proofs` is what this process had folded
    before.

    Attributes:
        head: the log's newest position and who holds the lease, as last read; None: not read yet.
        log: the log as far as it is folded; None: not read yet.
        lost: what this process had folded and the database does not hold, when it was last read.
        proofs: that, and what is to be compared with the database yet.
    """

    _store: StoreThread
    _name: str
    _address: str
    _clock: Callable[[], float] = time.monotonic
    proofs: tuple[Fold, ...] = ()
    lost: tuple[LostPart, ...] = field(default=(), init=False)
    head: Head | None = field(default=None, init=False)
    log: LogInMemory | None = field(default=None, init=False)
    _trouble: str = field(default="", init=False)
    _watched: rules.Watched | None = field(default=None, init=False)
    _renewal: rules.Renewal | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._read_at = self._renewed_at = self._clock()

    @property
    def read_s(self) -> float:
        """Seconds since the database was last read."""
        return self._clock() - self._read_at

    @property
    def unrenewed_s(self) -> float:
        """Seconds since this hub first read the newest renewal of the lease; 0 while the lease does not end by time."""
        return 0.0 if self._renewal is None or self._renewal.expires_ms is None else self._clock() - self._renewed_at

    @property
    def left_s(self) -> float | None:
        """Seconds until the lease was over when the database was last read; None: it does not end by time."""
        return left_s(self.head.remaining_s, self._read_at - self._renewed_at) if self.head is not None else None

    @property
    def lag(self) -> int:
        """Events of the log that are not folded yet."""
        return max(0, self.head.rev - self.log.state.rev) if self.head is not None and self.log is not None else 0

    def take(self) -> TakenLease:
        """Takes the lease now. Blocking. Raises: StoreError, `lease_held` where another hub has it."""
        return self._store.now(self._look)

    async def turn(self) -> TakenLease:
        """Waits until the lease is this hub's. While the database cannot be read, it goes on trying."""
        while True:
            try:
                try:
                    return await self._store(self._look)
                except LeaseHeld as held:
                    self._trouble = ""
                    await self._store(methodcaller("wait_for_change", next_look_s(held.remaining_s)))
            except StoreError as error:
                if self._trouble != error.code:
                    log.error("the database cannot be read code=%s %s", error.code, error)
                self._trouble = error.code
                await asyncio.sleep(LOOK_S)

    def _look(self, store: Store) -> TakenLease:
        """Folds what is new, and takes the lease if it is over. Raises: StoreError, `lease_held` where it is not."""
        watched, follows = self._watched, self._catch_up(store)
        assert self.log is not None
        began, self.head, asked = self._clock(), store.read_head(), self._clock()
        if self.head.renewal != self._renewal:
            self._renewal, self._renewed_at = self.head.renewal, asked
        self._read_at = asked
        self._watched = self._position()
        remaining_s = left_s(self.head.remaining_s, began - self._renewed_at)
        if remaining_s:  # to ask for it is a write, for which commits would have to wait
            raise LeaseHeld(self.head.lease, remaining_s)
        watched_renewal = self.head.renewal if remaining_s is not None else None
        epoch = store.take_lease(
            self._name,
            address=self._address,
            ttl_s=TTL_S,
            unless_renewed=watched_renewal,
            epoch_above=max([self.head.lease.epoch, *(part.fold.epoch for part in self.lost)]),
        )
        follows = self._catch_up(store) and follows  # whoever held it may have committed until then, and no longer
        assert self.log is not None
        self.log.state.epoch = epoch
        alone = epoch == self.head.lease.epoch + 1
        settles = needs_settling(watched, self._position(), follows=follows and alone)
        ends = store.read_head().remaining_s is not None
        return TakenLease(
            log=self.log,
            settles=settles,
            lost=self.lost,
            ttl_s=TTL_S if ends else None,
            asked=asked,
            clock=self._clock,
        )

    def _catch_up(self, store: Store) -> bool:
        """Folds what is new. Returns False where that does not follow: the log is read anew, and the fold is proof."""
        follows = self.log is not None and self.log.catch_up(store)
        if not follows:
            if self.log is not None:
                epoch = self.head.lease.epoch if self.head is not None else 0
                self.proofs += (self.log.fold(self._name, epoch=epoch),)
            self.log = LogInMemory(store)
        if self.proofs:
            known = {part.fold for part in self.lost}
            parts = [lost_part(fold, store.has_hash) for fold in self.proofs]
            self.lost = tuple(part for part in parts if part is not None)
            self.proofs = tuple(part.fold for part in self.lost)  # the new fold holds the others, and is proof of them
            for part in self.lost:
                if part.fold not in known:
                    log.error("%s", part.tail.words)
        return follows

    def _position(self) -> rules.Watched:
        """Returns how far the log is folded, and the hold of the lease that was read then."""
        assert self.log is not None
        assert self.head is not None
        state, head = self.log.state, self.head
        hold = rules.Hold(log=head.log, epoch=head.lease.epoch, incarnation=head.incarnation)
        return rules.Watched(hold=hold, rev=state.rev)
