"""Directives, engines and pins: decide, append, fdatasync, swap, acknowledge. In this order, one at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from loradeck.schemas.link import Ack, AckState
from loradeck.schemas.release import Release
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry
from loradeck_agent.router.admit import Admission
from loradeck_agent.router.replicas import Replicas
from loradeck_agent.router.table import Change, EngineAt, InForce, Key, Table, TableFault
from loradeck_agent.router.trace import now_ms

log = logging.getLogger(__name__)

_NO_CODE: str | None = None


class Unacceptable(Exception):
    """A call on the control socket that changes nothing. `code` is stable."""

    def __init__(self, status: int, code: str, title: str, detail: str, fix: str) -> None:
        super().__init__(f"{code}: {title} {detail}")
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.fix = fix


@dataclass
class _Draft:
    """What is about to be written: entries, pins and positions, and what will then be in force."""

    position: tuple[int, int, str] | None = None
    entries: dict[Key, TableEntry] = field(default_factory=dict)
    pins: dict[Key, Pin] = field(default_factory=dict)
    unpins: set[Key] = field(default_factory=set)
    in_force: dict[Key, InForce] = field(default_factory=dict)
    engines: tuple[EngineAt, ...] | None = None

    @property
    def keys(self) -> list[Key]:
        return list(dict.fromkeys([*self.entries, *self.pins, *self.unpins, *self.in_force]))

    def change(self) -> Change | None:
        """The line to append; None when nothing changes."""
        if self.position is None and self.engines is None and not self.keys:
            return None
        return Change(
            at_ms=now_ms(),
            position=self.position,
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
        self._turn = asyncio.Lock()
        self._told: dict[Key, dict[str, Ack]] = {}
        self._unwritten: set[Key] = set()  # ready to flip, but the disk refused it: tried again with the engines

        self._engines_told = False

    def start(self) -> None:
        """Serves from the table as it was read: the engines it names are asked until the agent says otherwise."""
        self._replicas.set(self._held.engines)
        for key, entry in self._held.entries.items():
            self._admission.set_callers(key, (), entry.keys)
            self._recompile(key)

    # ---- calls ---------------------------------------------------------------------------------------------

    async def directive(self, epoch: int, rev: int, hash_: str, entries: Sequence[TableEntry]) -> list[Ack]:
        """Takes the hub's entries. Entries that are not in a directive stay: a removal is a tombstone.

        Returns:
            One acknowledgement per entry and replica that runs its base: flipped, waiting, or failed with
            `stale`, `bad_entry`, `disk_full` or `table_write_failed`. What failed is not in the table.
        """
        async with self._turn:
            newer = (epoch, rev) >= (self._held.epoch, self._held.rev)
            draft = _Draft()
            refused: list[Ack] = []
            taken: list[TableEntry] = []
            for entry in entries:
                held = self._held.entries.get(entry.key)
                if (fault := _fault(entry)) is not None:
                    refused += self._failed(entry, "bad_entry", fault)
                elif held is not None and (why := _stale(held, entry, newer)) is not None:
                    refused += self._failed(entry, "stale", why)
                else:
                    taken.append(entry)
                    if held != entry:
                        draft.entries[entry.key] = entry
            if (epoch, rev) > (self._held.epoch, self._held.rev):
                draft.position = (epoch, rev, hash_)
            self._add_flips(draft, [entry.key for entry in taken])
            try:
                await self._commit(draft)
            except TableFault as fault:
                log.error("%s", fault)
                return refused + [ack for entry in taken for ack in self._failed(entry, fault.code, str(fault))]
            return refused + [ack for entry in taken for ack in self._answer(entry.key)]

    async def engines(self, engines: Sequence[EngineAt]) -> list[Ack]:
        """Takes the node's engines, always all of them; entries whose release became ready flip now.

        Returns:
            Acknowledgements that differ from the last ones given; the first time, all of them.
        """
        async with self._turn:
            draft = _Draft()
            if tuple(engines) != self._held.engines:
                draft.engines = tuple(engines)
            if self._engines_told:
                concerned = self._concerned_by([replica.at for replica in self._replicas], engines)
            else:
                concerned = list(self._held.entries)
                self._engines_told = True
            self._replicas.set(engines)
            for key in concerned:
                self._recompile(key)
            concerned += [key for key in self._unwritten if key not in concerned]
            self._add_flips(draft, concerned)
            fault: TableFault | None = None
            try:
                await self._commit(draft)
            except TableFault as failed:  # where the engines are is a fact, durable or not: only the flips fail
                log.error("%s", failed)
                fault = failed
            acks: list[Ack] = []
            for key in concerned:
                if fault is not None and key in draft.in_force:
                    self._unwritten.add(key)
                    acks += self._failed(self._held.entries[key], fault.code, str(fault))
                    continue
                self._unwritten.discard(key)
                before = self._told.get(key, {})
                acks += [ack for ack in self._answer(key) if before.get(ack.replica) is not ack]
            return acks

    async def pin(self, pin: Pin) -> list[Ack]:
        """Puts a release chosen on this node in force, over the hub's, until it is unpinned.

        Raises:
            Unacceptable: `unknown_route`, `wrong_tenant` or `bad_release`.
            TableFault: the disk refused it; nothing changed.
        """
        async with self._turn:
            key = (pin.tenant, pin.route)
            entry = self._held.entries.get(key)
            if entry is None or entry.current is None:
                raise Unacceptable(
                    404, "unknown_route", "There is no such route here.", f"{pin.tenant}/{pin.route}", "See `status`."
                )
            if (fault := _ref_fault(pin.release, pin.tenant)) is not None:
                raise Unacceptable(
                    400, "bad_release", "The release does not fit the pin.", fault, "Name another release."
                )
            draft = _Draft()
            if self._held.pins.get(key) != pin:
                draft.pins[key] = pin
            self._add_flips(draft, [key])
            await self._commit(draft)
            return self._answer(key)

    async def unpin(self, key: Key) -> list[Ack]:
        """Ends a pin; the hub's entry holds again. Without a pin nothing changes.

        Raises:
            TableFault: the disk refused it; the pin holds on.
        """
        async with self._turn:
            draft = _Draft()
            if key in self._held.pins:
                draft.unpins.add(key)
            self._add_flips(draft, [key] if key in self._held.entries else [])
            await self._commit(draft)
            return self._answer(key)

    # ---- the order that matters ----------------------------------------------------------------------------

    async def _commit(self, draft: _Draft) -> None:
        """Append and fdatasync, then swap. Callers are answered by the old plans until the disk has the new ones.

        Raises:
            TableFault: nothing was swapped.
        """
        change = draft.change()
        if change is None:
            return
        self._table.append(change)
        self._swap(change, draft.keys)
        if self._table.bloated:
            try:
                self._table.compact()
            except OSError as fault:
                log.error("the table was not compacted: %s", fault)

    def _swap(self, change: Change, keys: Iterable[Key]) -> None:
        for entry in change.entries:
            before = self._held.entries.get(entry.key)
            self._admission.set_callers(entry.key, before.keys if before else (), entry.keys)
        self._held.apply(change)
        for key in keys:
            self._recompile(key)

    def _concerned_by(self, before: Sequence[EngineAt], now: Sequence[EngineAt]) -> list[Key]:
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
        return [key for key in self._held.entries if self._rests_on(key, releases, bases)]

    def _rests_on(self, key: Key, releases: set[str], bases: set[str]) -> bool:
        pin, force = self._held.pins.get(key), self._held.in_force.get(key)
        refs = [self._held.entries[key].current, pin.release if pin else None, force.release if force else None]
        return any(
            ref.id in releases or ref.release.served_base in bases or ref.release.base in bases
            for ref in refs
            if ref is not None
        )

    def _recompile(self, key: Key) -> None:
        entry = self._held.entries.get(key)
        if entry is not None:
            pin, force = self._held.pins.get(key), self._held.in_force.get(key)
            self._admission.swap(key, self._admission.compile(entry, pin, force, self._replicas))

    def _add_flips(self, draft: _Draft, keys: Iterable[Key]) -> None:
        """Adds what these entries put in force: their release where an engine holds it, else nothing yet."""
        for key in keys:
            entry = draft.entries.get(key) or self._held.entries[key]
            pin = None if key in draft.unpins else draft.pins.get(key) or self._held.pins.get(key)
            wanted = pin.release if pin is not None and entry.current is not None else entry.current
            force = self._held.in_force.get(key)
            if force is not None and force.is_of(entry, wanted):
                continue
            if wanted is None or any(replica.serves(wanted) for replica in self._replicas):
                draft.in_force[key] = InForce(
                    tenant=entry.tenant,
                    route=entry.route,
                    epoch=entry.epoch,
                    generation=entry.generation,
                    release=wanted,
                )

    # ---- acknowledgements ----------------------------------------------------------------------------------

    def _answer(self, key: Key) -> list[Ack]:
        """How each engine of this entry's base stands now; remembered, so that changes can be told apart."""
        entry = self._held.entries.get(key)
        if entry is None:
            return []
        force = self._held.in_force.get(key)
        pin = self._held.pins.get(key)
        before = self._told.get(key, {})
        mono_ns = time.monotonic_ns()
        acks: list[Ack] = []
        for replica in self._replicas:
            state, code, detail = AckState.FLIPPED, _NO_CODE, ""
            current = entry.current
            if current is None:
                pass  # a tombstone concerns every engine, and holds at once
            elif not replica.runs(current.release.served_base):
                continue
            elif pin is not None and pin.release.id != current.id:
                state, code, detail = (
                    AckState.WAITING,
                    "pinned",
                    f"{pin.release.label or pin.release.id} by {pin.actor}",
                )
            elif not (replica.serves(current) and force is not None and force.is_of(entry, current)):
                state, code, detail = AckState.WAITING, "not_ready", f"gap policy {entry.gap.value}"
            ack = _ack(entry, replica.name, state, code, detail, mono_ns)
            told = before.get(replica.name)
            acks.append(told if told is not None and _same(told, ack) else ack)  # its time is that of the swap
        self._told[key] = {ack.replica: ack for ack in acks}
        return acks

    def _failed(self, entry: TableEntry, code: str, detail: str) -> list[Ack]:
        """One failure per engine that the entry concerns."""
        current = entry.current
        return [
            _ack(entry, replica.name, AckState.FAILED, code, detail, time.monotonic_ns())
            for replica in self._replicas
            if current is None or replica.runs(current.release.served_base)
        ]


def _ack(entry: TableEntry, replica: str, state: AckState, code: str | None, detail: str, mono_ns: int) -> Ack:
    return Ack(
        tenant=entry.tenant,
        route=entry.route,
        epoch=entry.epoch,
        generation=entry.generation,
        release=entry.current.id if entry.current else None,
        replica=replica,
        state=state,
        code=code,
        detail=detail,
        at_ms=now_ms(),
        mono_ns=mono_ns,
    )


def _same(before: Ack, now: Ack) -> bool:
    """Whether an acknowledgement says what the last one said, times aside."""
    return before.model_copy(update={"at_ms": now.at_ms, "mono_ns": now.mono_ns}) == now


def _stale(held: TableEntry, wanted: TableEntry, newer: bool) -> str | None:
    """Why an entry must not replace the one that is held; None if it may.

    Args:
        newer: the directive's (epoch, rev) is not behind the table's, so that settings under an equal fence are newer.
    """
    if wanted.fence < held.fence:
        return f"generation {held.generation} of epoch {held.epoch} is already held"
    if wanted.fence == held.fence and wanted != held:
        if (wanted.current and wanted.current.id) != (held.current and held.current.id):
            return f"generation {held.generation} of epoch {held.epoch} is already held, with another release"
        if not newer:
            return "newer settings of this generation are already held"
    return None


def _fault(entry: TableEntry) -> str | None:
    """What is wrong with an entry, before it is believed; None if nothing is."""
    refs = [ref for ref in (entry.current, entry.preparing, *entry.beneath) if ref is not None]
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
