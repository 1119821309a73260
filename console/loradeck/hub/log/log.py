"""The log at the hub: its folded state, its newest events, and the only way to add to it.

Every move is decided on the folded state, committed in the store's thread, folded, and then published: followers get
the committed events one after the other.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from nacl.signing import SigningKey
from pydantic import BaseModel

from loradeck.hub.log import reasons
from loradeck.hub.log.signing import Signing
from loradeck.hub.log.store_thread import StoreThread, calling
from loradeck.hub.log.takeover import Move, TakenLease
from loradeck.rules.errors import Refused
from loradeck.rules.moves import tickets
from loradeck.rules.moves.lease import TTL_S, must_step_down
from loradeck.rules.moves.lost_tail import Fold
from loradeck.rules.moves.witness import marked
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import GENESIS, Draft, Event, EventKind, PointerState
from loradeck.schemas.position import Position
from loradeck.schemas.replica_state import NOT_ACTIVE
from loradeck.store.interface import NO_CHANGE, Committed, FleetChange, LeaseLost, OutcomeUnknown, StoreError
from loradeck.store.sql_log import Store


@dataclass(frozen=True, slots=True)
class Published:
    """Committed events, the pointers they concern, and the moves among them."""

    events: Sequence[Event]
    touched: Collection[PointerKey]
    moves: Sequence[Move]


Follower = Callable[[Published], None]


class Log:
    """The log of the active hub. A commit is decided and made while `moving` is held, so that there is one at a time.

    Args:
        hold: the lease, as it was taken.
        key: signs the log's positions.
        clock: monotonic seconds.
        timed: called with the seconds that each commit took.
        lease_lost: called when another hub turns out to have taken the lease, or it is over.
    """

    def __init__(
        self,
        store: StoreThread,
        hold: TakenLease,
        key: SigningKey,
        *,
        clock: Callable[[], float],
        timed: Callable[[float], None],
        lease_lost: Callable[[], None],
    ) -> None:
        """Reads who signed for the log. Blocking."""
        self._held = hold.log
        self.state, self.recent = hold.log.state, hold.log.recent
        self._ttl_s, self._renewed, self._lease_clock = hold.ttl_s, hold.asked, hold.clock
        self.signing = Signing.load(store, key)
        self.moving = asyncio.Lock()
        self.lease_lost = False
        """Another hub has taken the lease, or it is over: nothing can be committed any more."""
        self._store = store
        self._clock = clock
        self._timed = timed
        self._on_lease_lost = lease_lost
        self._unresolved = False
        self.followers: list[Follower] = []
        """Are called with all events that are committed from now on, one after the other."""
        self.changes_fleet: Callable[[Sequence[Draft]], FleetChange] = lambda drafts: NO_CHANGE
        """What drafts change of the nodes, which is committed with them."""

    # ---- reading -------------------------------------------------------------------------------------------

    def last_move(self, pointer: PointerState) -> Event | None:
        """The event that last moved a pointer; None for one that never moved."""
        return self._held.last_moves.get(pointer.last_move) if pointer.last_move else None

    def last_rev(self, key: PointerKey) -> int:
        """The rev of the newest event that concerns a pointer: its own, or its tenant's as a whole; 0 without any."""
        last_revs = self._held.last_revs
        return max(last_revs.get(key, 0), last_revs.get((key[0], None), 0))

    def position(self) -> Position:
        """The position of the newest event, signed."""
        return self.signing.position(self.state.epoch, self.state.rev, self.state.hash)

    async def event(self, event_id: str) -> Event | None:
        """An event by its id; None: the log has no such event."""
        found = next((event for event in reversed(self.recent) if event.id == event_id), None)
        return found or await self._store(lambda s: s.event(event_id))

    async def pointer_before(self, event: Event) -> PointerState | None:
        """The state of an event's pointer before that event; None where it was the pointer's first."""
        assert event.pointer is not None
        key, before_rev = event.pointer.key, event.rev
        if self.recent and self.recent[0].rev < before_rev:
            for earlier in reversed(self.recent):
                if earlier.rev < before_rev and earlier.pointer is not None and earlier.pointer.key == key:
                    return earlier.pointer
        while page := await self._store(_page(key, before_rev)):
            for earlier in page:
                if earlier.pointer is not None:
                    return earlier.pointer
            before_rev = page[-1].rev
        return None

    async def live_since(self, pointer: PointerState) -> int | None:
        """When the live release of a pointer became live, milliseconds since 1970 UTC; None: nothing is live.

        Candidates that came and went meanwhile are stepped over, a hundred moves at most.
        """
        since, at = pointer.moved_ms, self.last_move(pointer)
        for _ in range(100):
            if at is None or at.from_release != pointer.release:
                break
            before = await self.pointer_before(at)
            at = await self.event(before.last_move) if before is not None and before.last_move else None
            since = at.at_ms if at is not None else since
        return since if pointer.release is not None else None

    async def after_generation(self, key: PointerKey, generation: int) -> list[Event]:
        """The newest events of a pointer after one of its generations, oldest first; more than a page are not read."""
        page = await self._store(_page(key, self.state.rev + 1))
        return [event for event in reversed(page) if (event.generation or 0) > generation]

    async def held_by(self, pointer: PointerState) -> Event | None:
        """The event that has set a pointer's hold; None: it is not held, or that is more than a page back."""
        if not pointer.held:
            return None
        page = await self._store(_page(pointer.key, self.state.rev + 1))
        holds = (event for event in page if event.kind in (EventKind.HOLD, EventKind.ROLLBACK))
        return next(holds, None)

    async def has(self, rev: int, hash_: str) -> bool:
        """Tells whether this log has the event with this rev and hash."""
        if rev == 0:
            return hash_ == GENESIS
        if rev >= self.state.rev:
            return rev == self.state.rev and hash_ == self.state.hash
        first = self.recent[0].rev if self.recent else self.state.rev + 1
        if rev >= first:
            return self.recent[rev - first].hash == hash_
        return await self._store(lambda s: s.has_hash(rev, hash_))

    def since(self, epoch: int, rev: int) -> list[Event] | None:
        """The events after a cursor; None when it is of another log, or older than the events kept in memory."""
        state, recent = self.state, self.recent
        if rev > state.rev or epoch > state.epoch or rev < 0:
            return None
        if rev == state.rev and (not recent or recent[-1].epoch <= epoch):
            return []
        if not recent:
            return None
        first = recent[0].rev
        if rev >= first:
            if recent[rev - first].epoch > epoch:
                return None
        elif not (rev == 0 and first == 1):
            return None
        return [event for event in recent if event.rev > rev]

    def fold(self, hub: str) -> Fold:
        """Returns a copy of what is folded now, as proof of what the database held."""
        return self._held.fold(hub)

    @property
    def lease_ends(self) -> bool:
        """Tells whether this hub holds a lease that ends, so that another hub may take over."""
        return self._ttl_s is not None

    @property
    def one_copy(self) -> bool:
        """Whether commits are on one server of the database alone now."""
        return self._store.one_copy

    # ---- writing -------------------------------------------------------------------------------------------

    async def commit(self, drafts: Sequence[Draft], key: str) -> Committed:
        """Commits drafts under an idempotency key, and publishes what was committed. The caller holds `moving`.

        After an unknown outcome the store is opened again; what turns out to be durable counts as committed.

        Raises: StoreError; Refused `personal_data`.
        """
        began = self._clock()
        try:
            if self._unresolved:
                await self._catch_up()
            drafts = reasons.kept(drafts, self.state.tenants)
            drafts = tickets.stamped(marked(drafts, one_copy=self.one_copy), self.state.config)
            fleet = self.changes_fleet(drafts)
            committed = await self._store(lambda s: s.commit(drafts, key=key, fleet=fleet))
        except OutcomeUnknown:
            return await self._resolve(key)
        except LeaseLost:
            self._lose_lease()
            raise
        self._timed(self._clock() - began)
        if not committed.replayed:
            self._publish(committed.events)
        return committed

    async def adopt(
        self, drafts: Sequence[Draft], *, epoch_above: int, key: str, decided: Callable[[], None] = lambda: None
    ) -> Committed:
        """Commits as `commit` does, for a recover: with an epoch above the given one.

        `decided` is called when the outcome is durable and not yet published.
        """
        drafts = reasons.kept(drafts, self.state.tenants, refuse=False)
        try:
            committed = await self._store(lambda s: s.adopt(drafts, epoch_above=epoch_above, key=key))
        except OutcomeUnknown:
            decided()
            return await self._resolve(key)
        except LeaseLost:
            self._lose_lease()
            raise
        decided()
        await self._catch_up()
        return committed

    async def keep_lease(self) -> None:
        """Renews the lease. Notices where another hub has taken it, and where it is over because nothing answers."""
        if self.lease_lost:
            return
        asked, ttl_s = self._lease_clock(), self._ttl_s
        try:
            async with asyncio.timeout(None if ttl_s is None else self._renewed + ttl_s - asked):
                try:
                    await self._store(lambda s: s.renew_lease(TTL_S))
                except OutcomeUnknown:
                    if not self.one_copy:
                        raise
                    await self._store(lambda s: s.renew_lease(TTL_S))  # which waits for no standby any more
        except LeaseLost:
            self._lose_lease()
        except (StoreError, TimeoutError):  # whoever commits is told so
            if ttl_s is not None and must_step_down(self._lease_clock() - self._renewed, ttl_s):
                self._lose_lease()
        else:
            self._renewed = asked

    def serves(self) -> bool:
        """Tells whether the hub may speak for the log now. One that was stopped may not before it has looked."""
        ttl_s = self._ttl_s
        if ttl_s is not None and must_step_down(self._lease_clock() - self._renewed, ttl_s):
            self._lose_lease()
        return ttl_s is None or not self.lease_lost

    def not_active(self) -> Refused:
        """The refusal of a hub that does not hold the lease any more."""
        return Refused(NOT_ACTIVE, "this hub does not hold the lease any more", fix="use the active hub's address")

    def _lose_lease(self) -> None:
        if not self.lease_lost:
            self.lease_lost = True
            self._on_lease_lost()

    async def begin_epoch(self, *, above: int) -> None:
        """Begins an epoch above the given one and this log's, under `moving`. Raises: StoreError."""
        await self.adopt((), epoch_above=above, key=f"after-epoch-{self.state.epoch}-{self.state.rev}")

    async def _catch_up(self) -> None:
        """Publishes what is durable and not yet folded."""
        # Before an event of a new incarnation is sent, since its position names it.
        self.signing.incarnations = await self._store(lambda s: s.incarnations())
        while newer := await self._store(lambda s: s.since(self.state.rev)):
            self._publish(newer)
        self.state.epoch = (await self._store(lambda s: s.snapshot())).epoch
        self._unresolved = False

    async def _resolve(self, key: str) -> Committed:
        """The outcome of a commit whose answer was lost.

        Raises: OutcomeUnknown: the key is not in the log, or the store still cannot be read.
        """
        self._unresolved = True
        await self._catch_up()
        found = await self._store(lambda s: s.lookup(key))
        if found is None:
            raise OutcomeUnknown("the store failed at the commit, and the key is not in the log now")
        return found

    # ---- publishing ----------------------------------------------------------------------------------------

    def _publish(self, events: Sequence[Event]) -> None:
        """Folds new events, and hands them to the followers."""
        touched: dict[PointerKey, None] = {}
        moves: list[Move] = []
        for event in events:
            move = self._held.add(event)
            touched.update(dict.fromkeys(self.state.pointers_of(event)))
            if move is not None:
                moves.append(move)
        published = Published(events, touched.keys(), moves)
        for follower in self.followers:
            follower(published)


def _page(key: PointerKey, before_rev: int) -> Callable[[Store], list[Event]]:
    return calling(Store.history, tenant=key[0], route=key[1], before_rev=before_rev, limit=50)


PAGE = 1000
"""Events that are read at once."""


class AtRev(BaseModel):
    """What follows from the log up to a rev."""

    rev: int


T = TypeVar("T", bound=AtRev)


class Kept(Generic[T]):
    """A setting of the store that holds what follows from the log: a hub that starts reads the newest events alone.

    Whoever changes `state` writes down its rev.

    `name`: of the setting. A store without it begins at the log's end: what it is about did not exist before. That is
    written at once, so that a hub which ends before the first `save` loses none of what came since.
    """

    def __init__(self, log: Log, store: StoreThread, name: str, kind: type[T]) -> None:
        """Reads it, or writes where it begins; blocking."""
        text = store.now(lambda s: s.meta(name))
        self._log, self._store, self._name = log, store, name
        self.state = kind.model_validate_json(text) if text else kind(rev=log.state.rev)
        self._saved = self.state.rev if text else -1
        if not text:
            with suppress(StoreError):  # a hub on a full disk starts, too
                store.now(lambda s: s.set_meta(name, self.state.model_dump_json()))

    def unread(self) -> Iterator[Event]:
        """The events after its rev, oldest first; blocking."""
        while self.state.rev < self._log.state.rev:
            yield from self._store.now(lambda s: s.since(self.state.rev, PAGE))

    async def save(self) -> None:
        """Writes it where the log has grown since."""
        rev = self.state.rev
        if rev != self._saved:
            text = self.state.model_dump_json()
            await self._store(lambda s: s.set_meta(self._name, text), background=True)
            self._saved = rev
