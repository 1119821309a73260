"""Directives, engines and pins: decide, append, fdatasync, swap, acknowledge. In this order, one at a time.

Nothing here awaits. The fdatasync blocks the event loop, on purpose: measured on a busy loop, handing it to a
thread took 15 ms at the median and seconds at the worst for the interpreter's lock, against 0.3 ms inline.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from loradeck.rules.serving.flip import Verdict, decide
from loradeck.schemas.fault import Fault
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Ack
from loradeck.schemas.manifest import Release
from loradeck.schemas.protocol import unknown_features
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import Pin, ReleaseRef, RouteResidency, Streams, TableEntry
from loradeck_agent.router.admission import Admission, untold
from loradeck_agent.router.engine_pools import EnginePool, Replicas
from loradeck_agent.router.table import READ_ONLY, Change, Contents, Table, TableFault
from loradeck_agent.router.trace import now_ms
from loradeck_agent.router.wire import VOLATILE, Acks, Cursor, EngineAt, InForce, ack_about

log = logging.getLogger(__name__)

MEND_S = 2.0
"""Between two attempts to write what the disk has refused."""

_How = tuple[AckState, str | None, str]
"""An acknowledgement's state, problem code and detail."""


class Unacceptable(Fault):
    """A call on the control socket that is refused and changes nothing."""

    def __init__(self, status: int, code: str, title: str, detail: str, fix: str) -> None:
        super().__init__(code, title, detail, fix)
        self.status = status


@dataclass
class _Draft:
    """A change that is being put together: entries, pins, cursor, and what will then be in force."""

    cursor: Cursor | None = None
    entries: dict[PointerKey, TableEntry] = field(default_factory=dict)
    pins: dict[PointerKey, Pin] = field(default_factory=dict)
    unpins: set[PointerKey] = field(default_factory=set)
    in_force: dict[PointerKey, InForce] = field(default_factory=dict)
    engines: tuple[EngineAt, ...] | None = None

    @property
    def keys(self) -> list[PointerKey]:
        return list(dict.fromkeys([*self.entries, *self.pins, *self.unpins, *self.in_force]))

    def change(self) -> Change | None:
        """The line to append; None when nothing changes."""
        cursor = self.cursor
        if cursor is None and self.engines is None and not self.keys:
            return None
        return Change(
            at_ms=now_ms(),
            position=(cursor.epoch, cursor.rev, cursor.hash) if cursor else None,
            witness=cursor.witness if cursor else None,
            entries=tuple(self.entries.values()),
            pins=tuple(self.pins.values()),
            unpins=tuple(self.unpins),
            in_force=tuple(self.in_force.values()),
            engines=self.engines,
        )


class Switch:
    """The only writer of the table and the only one that swaps plans."""

    def __init__(self, table: Table, admission: Admission, replicas: Replicas) -> None:
        self._table = table
        self._held = table.contents
        self._admission = admission
        self._replicas = replicas
        self._answered: dict[PointerKey, dict[str, Ack]] = {}
        self._untold: set[PointerKey] = set()
        self._unanswered: set[PointerKey] = set()  # a flip that the disk refused, or a release that an engine has lost
        self._engines_known = False
        self._ahead = False  # whether engines hold more than the disk says
        self.consent_changed: Callable[[], None] = lambda: None
        """Called where samples of a route are not to be kept any more, or not as long."""

    def start(self, untold: Iterable[PointerKey] = ()) -> None:
        """Serves from the table as it was read: the engines it names are used until the agent reports others.

        `untold`: pointers of which the router before this one had more in memory than on its read-only disk. They
        refuse until the agent has told of them again.
        """
        self._untold.update(untold)
        self.catch_up(Contents())

    def catch_up(self, read: Contents) -> None:
        """Serves from the table as it stands. `read`: what it held when it was served from last."""
        held = self._held
        moved = held.engines != read.engines
        if moved:
            self._replicas.set(held.engines)
        for key, entry in held.entries.items():
            was, now = ((c.entries.get(key), c.pins.get(key), c.in_force.get(key)) for c in (read, held))
            if moved or was != now:
                self._admission.set_callers(key, was[0].keys if was[0] else (), entry.keys)
                self._recompile(key)

    def cut_again(self) -> None:
        """Cuts what each entry has left once more, where a router before this one goes on answering by it."""
        for key, entry in self._held.entries.items():
            if entry.streams is Streams.CUT:
                self._recompile(key)

    @property
    def trouble(self) -> str:
        """The fault of the table's disk, in words; empty while it takes every write."""
        return self._table.trouble

    @property
    def volatile(self) -> tuple[PointerKey, ...]:
        """Pointers of which more is in memory than on the read-only disk."""
        return tuple(self._table.volatile)

    async def keep_mending(self) -> None:
        """Tries again what the disk refused the table, for ever."""
        while True:
            await asyncio.sleep(MEND_S)
            self._table.mend()

    # ---- calls ---------------------------------------------------------------------------------------------

    def directive(self, cursor: Cursor, entries: Sequence[TableEntry]) -> Acks:
        """Applies the hub's entries. Entries that are not in a directive stay: a removal is a tombstone.

        Returns:
            One acknowledgement per entry and replica that runs its base: flipped, waiting, or failed with
            `stale`, `bad_entry`, `unknown_feature`, `disk_full` or `table_write_failed`. What failed is not in the
            table. A flip with the code `not_ready` is a cold one: nobody is answered by the left release, and the
            on-demand route's own is yet to be loaded. `durable` is False where the disk refused the directive, which no
            acknowledgement shows without entries or engines.
        """
        newer = cursor >= self._held.cursor
        draft = _Draft()
        refused: list[Ack] = []
        taken: list[TableEntry] = []
        for entry in entries:
            held = self._held.entries.get(entry.key)
            if unknown := unknown_features(entry.needs):
                detail = f"this router cannot serve it: it lacks {', '.join(unknown)}"
                refused += self._failed(entry, "unknown_feature", detail)
            elif (fault := _fault(entry)) is not None:
                refused += self._failed(entry, "bad_entry", fault)
            elif held is not None and self._is_stale(held, entry, newer):
                detail = f"generation {held.generation} of epoch {held.epoch} is held here"
                refused += self._failed(entry, "stale", detail)
            else:
                taken.append(entry)
                if held != entry:
                    draft.entries[entry.key] = entry
        if cursor > self._held.cursor:
            draft.cursor = cursor
        self._add_flips(draft, [entry.key for entry in taken])
        told = self._untold.intersection(entry.key for entry in taken)
        self._untold -= told
        try:
            self._commit(draft, volatile=True)
        except TableFault as fault:
            log.error("%s", fault)
            for entry in taken:
                refused += (
                    self._answer(entry.key) if fault.code == READ_ONLY else self._failed(entry, fault.code, str(fault))
                )
            return Acks.model_construct(acks=tuple(refused), durable=False)
        finally:
            for key in told:
                self._recompile(key)
        answers = [ack for entry in taken for ack in self._answer(entry.key)]
        withdrawn = tuple(e.key for e in taken if e.current is None and e.key not in self._held.pins)
        return Acks.model_construct(acks=(*refused, *answers), durable=True, withdrawn=withdrawn)

    def engines(self, engines: Sequence[EngineAt]) -> list[Ack]:
        """Replaces the node's engines, always all of them; entries whose release became ready flip now.

        Returns:
            Acknowledgements that differ from the last ones given; the first time, all of them.
        """
        draft = _Draft()
        if tuple(engines) != self._held.engines:
            draft.engines = tuple(engines)
        if self._engines_known:
            concerned = self._concerned_by([replica.at for replica in self._replicas], engines)
        else:
            concerned = list(self._held.entries)
            self._engines_known = True
        self._replicas.set(engines)
        for key in concerned:
            self._recompile(key)
        concerned += [key for key in self._unanswered if key not in concerned]
        self._add_flips(draft, concerned)
        if draft.engines is not None and not draft.in_force and self._adds_on_demand(draft.engines):
            self._held.engines, draft.engines, self._ahead = draft.engines, None, True  # written with the next change
        fault: TableFault | None = None
        try:
            self._commit(draft, volatile=True)
        except TableFault as failed:  # where the engines are is a fact, durable or not: only the flips fail
            log.error("%s", failed)
            fault = failed
        acks: list[Ack] = []
        for key in concerned:
            if fault is not None and key in draft.in_force:
                self._unanswered.add(key)
                if fault.code != READ_ONLY:
                    acks += self._failed(self._held.entries[key], fault.code, str(fault))
                    continue
            else:
                self._unanswered.discard(key)
            before = self._answered.get(key, {})
            acks += [ack for ack in self._answer(key) if before.get(ack.replica) is not ack]
        return acks

    def silence(self, replica: str, seconds: float) -> None:
        """Keeps requests away from an engine for so long; 0: it answers. An engine that is not here is passed over."""
        pool = self._replicas.get(replica)
        if pool is not None and seconds:
            self._admission.silence(pool, time.monotonic() + seconds)
        elif pool is not None:
            pool.silent_until = 0.0

    def lost(self, replica: str, release: str) -> None:
        """Admits nobody to a release that its engine says it does not have, until the agent names the engines again."""
        before = [pool.at for pool in self._replicas]
        kept = [tuple(one for one in at.ready if (at.replica, one) != (replica, release)) for at in before]
        now = [at.model_copy(update={"ready": ready}) for at, ready in zip(before, kept, strict=True)]
        self._replicas.set(now)
        for key in self._concerned_by(before, now):
            self._unanswered.add(key)
            self._recompile(key)

    def pin(self, pin: Pin) -> list[Ack]:
        """Puts a release chosen on this node in force, over the hub's, until it is unpinned.

        Raises:
            Unacceptable: `unknown_route`, `wrong_tenant` or `bad_release`.
            TableFault: the disk refused it; nothing changed.
        """
        key = (pin.tenant, pin.route)
        entry = self._held.entries.get(key)
        if entry is None or entry.current is None:
            raise Unacceptable(
                404, "unknown_route", "There is no such route here.", f"{pin.tenant}/{pin.route}", "See `status`."
            )
        if (fault := _ref_fault(pin.release, pin.tenant)) is not None:
            raise Unacceptable(400, "bad_release", "The release does not fit the pin.", fault, "Name another release.")
        draft = _Draft()
        if self._held.pins.get(key) != pin:
            draft.pins[key] = pin
        self._add_flips(draft, [key])
        self._commit(draft)
        return self._answer(key)

    def unpin(self, key: PointerKey) -> list[Ack]:
        """Ends a pin; the hub's entry holds again. Without a pin nothing changes.

        Raises: TableFault: the disk refused it; the pin holds on.
        """
        draft = _Draft()
        if key in self._held.pins:
            draft.unpins.add(key)
        self._add_flips(draft, [key] if key in self._held.entries else [])
        self._commit(draft)
        return self._answer(key)

    # ---- the order that matters ----------------------------------------------------------------------------

    def _commit(self, draft: _Draft, *, volatile: bool = False) -> None:
        """Append and fdatasync, then swap. Callers are answered by the old plans until the disk has the new ones.

        `volatile`: on a read-only disk swap all the same: it is a matter of minutes until there is a disk again, and of
        seconds that callers get a bad release. It is not acknowledged as flipped.

        Raises: TableFault: nothing was swapped, or with `read_only` what may be volatile was.
        """
        change = draft.change()
        if change is None and self._table.volatile:
            change = Change(at_ms=now_ms())
        if change is None:
            return
        if self._ahead and change.engines is None:  # what is always there or pinned from now on may be among it
            change = change.model_copy(update={"engines": self._held.engines})
        try:
            self._table.append(change)
        except TableFault as fault:
            if volatile and fault.code == READ_ONLY:
                self._table.volatile.update(draft.keys)
                self._swap(change.model_copy(update={"position": None, "witness": None}), draft.keys)
            raise
        self._ahead = False
        self._swap(change, draft.keys)
        if self._table.bloated:
            try:
                self._table.compact()
            except OSError as fault:
                log.error("the table was not compacted: %s", fault)

    def _swap(self, change: Change, keys: Iterable[PointerKey]) -> None:
        shorter = False
        for entry in change.entries:
            before = self._held.entries.get(entry.key)
            self._admission.set_callers(entry.key, before.keys if before else (), entry.keys)
            if before is not None:
                erased = before.samples_from_ms < entry.samples_from_ms
                shorter = shorter or erased or before.sample_hours > entry.sample_hours
        self._held.apply(change)
        for key in keys:
            self._recompile(key)
        if shorter:
            self.consent_changed()

    def _is_stale(self, held: TableEntry, entry: TableEntry, newer: bool) -> bool:
        """Tells whether an entry must not replace the one that is held.

        `newer`: the directive is not behind the table's (epoch, rev). Under an equal fence only such a one may change
        an entry's settings (keys, checks and policies carry no fence of their own), withdraw it, or place it here
        again.
        """
        pin = self._held.pins.get(entry.key)
        standing = _standing(self._held.in_force.get(entry.key))
        if decide(standing, entry, False, pin, waiting=held) is Verdict.STALE:
            return True
        return entry.fence == held.fence and entry != held and not newer

    def _concerned_by(self, before: Sequence[EngineAt], now: Sequence[EngineAt]) -> list[PointerKey]:
        """Entries that may answer otherwise once the engines are as they are now."""
        releases: set[str] = set()
        bases: set[str] = set()
        was, are = {at.replica: at for at in before}, {at.replica: at for at in now}
        for name in was.keys() | are.keys():
            old, new = was.get(name), are.get(name)
            if old is not None and new is not None and old.model_copy(update={"ready": new.ready}) == new:
                releases |= set(old.ready) ^ set(new.ready)
            else:
                bases |= {at.base for at in (old, new) if at is not None}
        resting = self._held.index.resting
        keys = set[PointerKey]().union(*(resting.get(name, ()) for name in releases | bases))
        return [key for key in self._held.entries if key in keys]

    def _adds_on_demand(self, engines: Sequence[EngineAt]) -> bool:
        """Tells whether engines only hold more, of what on-demand routes alone are answered by."""
        held, table = self._held.engines, self._held
        if len(held) != len(engines):
            return False
        for old, new in zip(held, engines, strict=True):
            if old.model_copy(update={"ready": new.ready}) != new or not {*old.ready} <= {*new.ready}:
                return False
            for release in {*new.ready} - {*old.ready}:
                keys = table.index.resting.get(release, ())
                entries = [table.entries[key] for key in keys if key not in table.pins]
                waits = (e.residency is RouteResidency.ON_DEMAND and e.candidate is None for e in entries)
                if not keys or len(entries) < len(keys) or not all(waits):
                    return False
        return True

    def _recompile(self, key: PointerKey) -> None:
        entry = self._held.entries.get(key)
        if entry is not None and key in self._untold:
            self._admission.swap(entry, untold(key))
        elif entry is not None:
            pin, force = self._held.pins.get(key), self._held.in_force.get(key)
            self._admission.swap(entry, self._admission.compile(entry, pin, force, self._replicas))

    def _add_flips(self, draft: _Draft, keys: Iterable[PointerKey]) -> None:
        """Adds the flips that these entries make: to their release where an engine holds it, else none yet."""
        for key in keys:
            entry = draft.entries.get(key) or self._held.entries[key]
            pin = None if key in draft.unpins else draft.pins.get(key) or self._held.pins.get(key)
            wanted = pin.release if pin is not None else entry.current
            force = self._held.in_force.get(key)
            ready = wanted is not None and any(replica.serves(wanted) for replica in self._replicas)
            if pin is None:
                engine = wanted is not None and any(r.runs(wanted.release.served_base) for r in self._replicas)
                decided = decide(_standing(force), entry, ready, None, engine=engine)
                flips = decided in (Verdict.FLIP, Verdict.TOMBSTONE)
            else:
                flips = ready
            if flips and not (force is not None and force.is_of(entry, wanted) and force.pinned == (pin is not None)):
                draft.in_force[key] = InForce(
                    tenant=entry.tenant,
                    route=entry.route,
                    epoch=entry.epoch,
                    generation=entry.generation,
                    release=wanted,
                    pinned=pin is not None,
                )

    # ---- acknowledgements ----------------------------------------------------------------------------------

    def _answer(self, key: PointerKey) -> list[Ack]:
        """Acknowledges how each engine of this entry's base stands; remembered, so that repetitions are recognised.

        On a node without an engine of that base, the engines that the pointer was served by are left behind: they
        wait, and the acknowledgement says what the gap policy puts in its place.
        """
        entry = self._held.entries.get(key)
        if entry is None:
            return []
        force = self._held.in_force.get(key)
        pin = self._held.pins.get(key)
        before = self._answered.get(key, {})
        mono_ns = time.monotonic_ns()
        current = entry.current
        concerned = [r for r in self._replicas if current is None or r.runs(current.release.served_base)]
        unready = "not_ready"
        if not concerned and force is not None and force.release is not None:
            concerned, unready = [r for r in self._replicas if r.serves(force.release)], "no_engine"
        acks: list[Ack] = []
        for replica in concerned:
            state, code, detail = _how(entry, replica, pin, force)
            if state is AckState.FLIPPED and key in self._table.volatile:
                state, code, detail = AckState.FAILED, VOLATILE, f"flipped in memory alone: {self._table.trouble}"
            if code == "not_ready":
                code, detail = unready, self._in_its_place(key, entry)
            rev = self._held.cursor.rev if current is None else None
            ack = ack_about(entry, replica.name, state, code, detail, mono_ns, rev=rev)
            answered = before.get(replica.name)
            repeated = answered is not None and _same(answered, ack)
            acks.append(answered if answered is not None and repeated else ack)  # with the time of the swap
        self._answered[key] = {ack.replica: ack for ack in acks}
        return acks

    def _in_its_place(self, key: PointerKey, entry: TableEntry) -> str:
        """Says who answers while a pointer's release is not ready here, in words for a person."""
        answers = self._admission.answers(key)
        if answers is None:
            return f"gap policy {entry.gap.value}: nothing answers"
        force = self._held.in_force.get(key)
        left = force.release if force is not None else None
        who = left.label or left.id[:6] if left is not None and left.id == answers else "the base alone"
        return f"gap policy {entry.gap.value}: {who} answers"

    def _failed(self, entry: TableEntry, code: str, detail: str) -> list[Ack]:
        """Makes a failure for each engine that the entry concerns."""
        current = entry.current
        return [
            ack_about(entry, replica.name, AckState.FAILED, code, detail, time.monotonic_ns())
            for replica in self._replicas
            if current is None or replica.runs(current.release.served_base)
        ]


def _how(entry: TableEntry, replica: EnginePool, pin: Pin | None, force: InForce | None) -> _How:
    """Says how far one engine is with an entry."""
    current = entry.current
    if pin is not None and pin.release.id != (current and current.id):
        return AckState.WAITING, "pinned", f"{pin.release.label or pin.release.id} by {pin.actor}"
    ready = current is None or replica.serves(current)
    flipped = force is not None and force.is_of(entry, current)
    if flipped and (ready or entry.residency is RouteResidency.ON_DEMAND):
        return AckState.FLIPPED, None if ready else "not_ready", ""
    return AckState.WAITING, "not_ready", ""


def _same(before: Ack, now: Ack) -> bool:
    """Tells whether two acknowledgements are equal but for their times."""
    return before.model_copy(update={"at_ms": now.at_ms, "mono_ns": now.mono_ns}) == now


def _standing(force: InForce | None) -> TableEntry | None:
    """The entry in force; None where nothing is, or only what a pin chose."""
    return None if force is None or force.pinned else force.as_entry()


def _fault(entry: TableEntry) -> str | None:
    """Why an entry is refused; None if it may be applied."""
    refs = (*entry.refs, *([entry.judge_release] if entry.judge_release is not None else ()))
    return next((fault for ref in refs if (fault := _ref_fault(ref, entry.tenant)) is not None), None)


def _ref_fault(ref: ReleaseRef, tenant: str) -> str | None:
    if ref.release.tenant != tenant:
        return f"release {ref.id} belongs to {ref.release.tenant}, not to {tenant}"
    if _digest(ref.release) != ref.id:
        return f"release {ref.id} is not the digest of its own parts"
    return None


@lru_cache(maxsize=65536)
def _digest(release: Release) -> str:
    return release.id
