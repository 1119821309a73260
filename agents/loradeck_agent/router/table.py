"""The durable table: the one owner of the node's entries, its cursor in the hub's log, its pins and its flips.

One file of lines, `<crc32> <json>`, each a `Change`. A change is appended and fdatasynced before anything
acts on it. A last line that a crash tore is dropped; a broken line with whole ones after it is corruption,
and then the router does not start. The file is rewritten by rename when it is opened, where the disk allows that: what
could be read is served in any case. Behind its end it has a reserve, so that moves go on where the disk is full.

Only the router writes it. While no router answers, the agent and its command line read it (`read_contents`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from loradeck.schemas.fault import Fault
from loradeck.schemas.ids import Digest, Name, PointerKey, Wire
from loradeck.schemas.position import Position
from loradeck.schemas.table import EntryOnWire, Pin, RouteResidency, TableEntry
from loradeck_agent.host.state_folder import fsync_folder, make_private, open_lock, reserve
from loradeck_agent.router.wire import Cursor, EngineAt, InForce

log = logging.getLogger(__name__)

_NAME = "table.jsonl"
READ_ONLY = "read_only"
"""The code of a table on a disk that is read-only."""

RESERVE = 2**20
"""Bytes of the disk that the table keeps behind its end: some hundreds of moves."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Change(Wire):
    """One line of the table's file. What is absent stays as it was."""

    at_ms: int
    position: tuple[int, int, Digest] | None = Field(None, description="(epoch, rev, hash) of the hub's log")
    witness: Position | None = Field(None, description="`position` as the hub signed it")
    entries: tuple[EntryOnWire, ...] = ()
    pins: tuple[Pin, ...] = ()
    unpins: tuple[tuple[Name, Name], ...] = ()
    in_force: tuple[InForce, ...] = ()
    engines: tuple[EngineAt, ...] | None = None


@dataclass(frozen=True)
class Index:
    """The pointers of a table by the releases and bases that may answer them. Made once after a change, from all.

    Attributes:
        resting: ids of releases, and digests of bases, with the pointers that may be answered by them.
        held: releases in force that no engine may unload; of on-demand routes only what a pin has chosen.
    """

    resting: dict[str, list[PointerKey]]
    held: tuple[str, ...]

    @classmethod
    def of(cls, table: Contents) -> Index:
        """The index of a table as it is now."""
        resting, held = dict[str, list[PointerKey]](), set[str]()
        for key, entry in table.entries.items():
            pin, force = table.pins.get(key), table.in_force.get(key)
            candidate = entry.candidate.release if entry.candidate is not None else None
            again = entry.beneath[:1] if entry.asked_again_until_ms is not None else ()
            refs = [entry.current, candidate, pin.release if pin else None, force.release if force else None, *again]
            for ref in refs:
                for name in (ref.id, ref.release.served_base, ref.release.base) if ref is not None else ():
                    if (keys := resting.setdefault(name, []))[-1:] != [key]:
                        keys.append(key)
        for key, force in table.in_force.items():
            entry_of = table.entries.get(key)
            on_demand = entry_of is not None and entry_of.residency is RouteResidency.ON_DEMAND
            if force.release is not None and (force.pinned or not on_demand):
                held.add(force.release.id)
        return cls(resting, tuple(sorted(held)))


@dataclass
class Contents:
    """The table in memory. Changed only by `apply`, and only with a change that is durable.

    Engines alone may hold more here than the disk says, for on-demand routes, until the next change.
    """

    cursor: Cursor = field(default_factory=Cursor)
    entries: dict[PointerKey, TableEntry] = field(default_factory=dict)
    pins: dict[PointerKey, Pin] = field(default_factory=dict)
    in_force: dict[PointerKey, InForce] = field(default_factory=dict)
    engines: tuple[EngineAt, ...] = ()
    _index: Index | None = field(default=None, compare=False, repr=False)

    @property
    def index(self) -> Index:
        """The index of this table, made anew after a change."""
        self._index = self._index or Index.of(self)
        return self._index

    def copy(self) -> Contents:
        """As they are now."""
        return Contents(self.cursor, dict(self.entries), dict(self.pins), dict(self.in_force), self.engines)

    def become(self, other: Contents) -> None:
        """Takes the place of what these held; whoever has them at hand sees the others."""
        self.cursor, self.entries, self.pins = other.cursor, other.entries, other.pins
        self.in_force, self.engines, self._index = other.in_force, other.engines, None

    def apply(self, change: Change) -> None:
        """Adds a durable change."""
        if change.entries or change.pins or change.unpins or change.in_force:
            self._index = None
        if change.position is not None:
            self.cursor = Cursor(*change.position, change.witness)
        for entry in change.entries:
            self.entries[entry.key] = entry
        for pin in change.pins:
            self.pins[pin.tenant, pin.route] = pin
        for key in change.unpins:
            self.pins.pop(key, None)
        for force in change.in_force:
            self.in_force[force.key] = force
        if change.engines is not None:
            self.engines = change.engines


def read_contents(folder: Path) -> Contents:
    """Reads a router's table without its lock, and changes nothing. Blocks for one fdatasync.

    For when no router answers. What is returned is on the disk: a router that was killed may have left a line that
    it had written and not yet synced. Lines that are damaged are passed over; an absent file is an empty table.

    Raises: OSError: the file cannot be read, or not be synced.
    """
    contents = Contents()
    try:
        file = os.open(folder / _NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return contents
    with open(file, "rb") as reader:
        raw = reader.read()
        os.fdatasync(file)  # after the read: a router that does not answer may append meanwhile
    for line in raw.split(b"\n"):
        if (change := _parsed(line)) is not None:
            contents.apply(change)
    return contents


class TableFault(Fault):
    """The table's folder or file cannot be used."""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail} {self.fix}"


class Table:
    """The file, its lock, and its contents.

    Attributes:
        contents: what all durable changes add up to.
        hub_silent_s: age in seconds of the newest sign of the hub that this file carries, when it was opened.
        trouble: what the disk refused last, in words; empty once it was made good.
        volatile: pointers of which the contents have more than the file, since the disk is read-only.
    """

    def __init__(self, folder: Path, *, ahead: bool = False) -> None:
        """Takes the folder, or with `ahead` only reads the file as it stands: `take` is then called later.

        Raises:
            TableFault: as `take`; with `ahead` `table_corrupt` alone.
            AgentError: the folder cannot be made.
            OSError: the lock cannot be taken, or the file not be read.
        """
        make_private(folder)
        self._folder = folder
        self._path = folder / _NAME
        self._lock = -1
        self.contents = Contents()
        self.trouble = ""
        self.volatile: set[PointerKey] = set()
        self._file = -1  # where it is none, the next append makes the file anew
        self._end = 0
        self._reserved_to = 0
        self._compacted_to = 0
        self._renamed = False  # whether a rename of the file may not be on the disk yet
        self.hub_silent_s = 0.0
        self._ahead = b""
        if ahead:
            self._ahead = self._whole_lines()
            self._read(self._ahead)
        else:
            self.take()

    def take(self) -> None:
        """Locks the folder and reads the file, of which what was read ahead is not read again. Compacts it, unless it
        was read ahead, where the disk has room for that.

        Raises:
            TableFault: `router_running` (another router holds the lock), `table_corrupt`.
            OSError: the lock cannot be taken, or the file not be read.
        """
        lock = open_lock(self._folder / "router.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as locked:
            os.close(lock)
            raise TableFault(
                "router_running",
                "The table is in use.",
                f"another router holds {self._folder / 'router.lock'}.",
                "Use that one, or stop it first.",
            ) from locked
        self._lock = lock
        with contextlib.suppress(OSError):  # for people; who holds the lock is what the kernel says
            os.ftruncate(self._lock, 0)
            os.write(self._lock, f"{os.getpid()}\n".encode())
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    # ---- reading -------------------------------------------------------------------------------------------

    def _whole_lines(self) -> bytes:
        """The file but for a line that is being written; nothing where there is none."""
        with contextlib.suppress(FileNotFoundError):
            raw = self._path.read_bytes()
            return raw[: raw.rfind(b"\n") + 1]
        return b""

    def _read(self, raw: bytes) -> None:
        for change in _changes(raw, self._path):
            self.contents.apply(change)

    def _open(self) -> None:
        try:
            raw = self._path.read_bytes()
            hub_seen_ns = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            raw, hub_seen_ns = b"", time.time_ns()
        self.hub_silent_s = max(0.0, (time.time_ns() - hub_seen_ns) / 1e9)
        ahead = self._ahead
        if ahead and raw.startswith(ahead):
            self._read(raw[len(ahead) :])
            self._renamed = True  # whoever wrote it may not have made its name durable
            self._go_on_with(raw, whole=len(ahead))  # to write it anew would keep callers waiting
            return
        self.contents.become(Contents())  # it was compacted meanwhile
        self._read(raw)
        try:
            self.compact()
            os.utime(self._path, ns=(hub_seen_ns, hub_seen_ns))
        except OSError as fault:
            self._refused("the table is served as it was read", fault)
            log.error("%s", self.trouble)
            if self._file < 0 and raw:
                self._go_on_with(raw)

    def _go_on_with(self, raw: bytes, whole: int = 0) -> None:
        """Uses the file as it is. Where it cannot be written, the next append makes it anew.

        `whole`: so many bytes at its beginning are known to be whole lines.
        """
        with contextlib.suppress(OSError):
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            lines = raw[whole:].split(b"\n")[:-1]
            self._end = self._compacted_to = whole + sum(len(line) + 1 for line in lines if _parsed(line))
            self._top_up()

    def _refused(self, what: str, fault: OSError) -> None:
        self.trouble = f"{what}: {self._path}: {fault.strerror}"

    def mend(self) -> None:
        """Tries again what the disk has refused, if anything; `trouble` says how that went."""
        if self.trouble:
            try:
                self.compact()
            except OSError as fault:
                self._refused("the table cannot be written", fault)

    def compact(self) -> None:
        """Writes the contents as one line to a new file and renames it over the old one.

        Raises: OSError: the old file is then still the one in use. Where only the folder's fsync failed, the new one is
        in use, and the next append makes its name durable first.
        """
        held = self.contents
        line = _line(
            Change(
                at_ms=time.time_ns() // 1_000_000,
                position=(held.cursor.epoch, held.cursor.rev, held.cursor.hash),
                witness=held.cursor.witness,
                entries=tuple(held.entries.values()),
                pins=tuple(held.pins.values()),
                in_force=tuple(held.in_force.values()),
                engines=held.engines,
            )
        )
        staged = self._path.with_suffix(".new")
        file = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(file, line)
            if not reserve(file, len(line), RESERVE) and self._reserved_to > self._end:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # the old one has its reserve, and is kept
            os.fsync(file)
            os.rename(staged, self._path)
        except BaseException:
            os.close(file)
            with contextlib.suppress(OSError):
                staged.unlink()
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._renamed = file, True
        self._end = self._compacted_to = len(line)
        self._top_up()
        self._sync_name()
        self.trouble = ""
        self.volatile.clear()

    def _top_up(self) -> None:
        """Reserves the disk behind the file's end anew, as far as there is room. An append uses it up."""
        self._reserved_to = self._end + RESERVE if reserve(self._file, self._end, RESERVE) else 0

    def _sync_name(self) -> None:
        fsync_folder(self._folder)
        self._renamed = False

    # ---- writing -------------------------------------------------------------------------------------------

    def append(self, change: Change) -> None:
        """Makes a change durable. Does not apply it: the caller swaps when this has returned.

        Raises: TableFault: `disk_full`, `read_only` or `table_write_failed`. The file is cut back to the last durable
        line; if even that fails, the next append tries again before it writes.
        """
        line = _line(change)
        try:
            if self._file < 0 or self.volatile:
                self.compact()
            if self._renamed:
                self._sync_name()
            if os.fstat(self._file).st_size != self._end:
                os.ftruncate(self._file, self._end)
            _write_all(self._file, line)
            os.fdatasync(self._file)
        except OSError as fault:
            self._cut_back()
            self._refused("the table cannot be written", fault)
            code = READ_ONLY if fault.errno == errno.EROFS else "table_write_failed"
            code = "disk_full" if fault.errno in _FULL else code
            raise TableFault(
                code,
                "The table could not be written; nothing changed.",
                f"{self._path}: {fault.strerror}.",
                "The entry was not switched. Free or repair the disk; the agent sends it again.",
            ) from fault
        self._end += len(line)
        if self._reserved_to < self._end + RESERVE // 2:
            self._top_up()

    def _cut_back(self) -> None:
        """Removes what a failed append may have left, as far as the disk allows."""
        try:
            os.ftruncate(self._file, self._end)
            os.fdatasync(self._file)
        except OSError:
            return  # `append` compares the size before it writes, and a torn line is dropped when it is read

    @property
    def bloated(self) -> bool:
        """Whether the file has outgrown its contents so far that it should be compacted before the next start."""
        return self._end > 4 * 2**20 and self._end > 4 * self._compacted_to

    def mark_hub_seen(self) -> None:
        """Marks now as the hub's last sign of life. Survives the process; not worth an fsync, nor an error."""
        with contextlib.suppress(OSError):
            os.utime(self._path)

    def close(self) -> None:
        """Closes the file and gives the folder back, if it is held. Nothing may be written any more."""
        for held in (self._file, self._lock):
            if held >= 0:
                os.close(held)
        self._file = self._lock = -1


def _line(change: Change) -> bytes:
    body = change.model_dump_json().encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _changes(raw: bytes, path: Path) -> list[Change]:
    """The whole lines of a file, in order.

    Raises: TableFault: `table_corrupt`, when a whole line follows a broken one.
    """
    found: list[Change] = []
    broken: int | None = None
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line:
            continue
        change = _parsed(line)
        if change is None:
            broken = broken or number
        elif broken is not None:
            raise TableFault(
                "table_corrupt",
                "The table is damaged.",
                f"{path}: line {broken} is damaged and whole lines follow it.",
                "Move the file away to start with an empty table: a running agent sends its entries and pins again.",
            )
        else:
            found.append(change)
    return found


def _parsed(line: bytes) -> Change | None:
    """The change on a line; None when the line was torn, damaged, or written by something else."""
    crc, _, body = line.partition(b" ")
    try:
        if len(crc) != 8 or int(crc, 16) != zlib.crc32(body):
            return None
        return Change.model_validate_json(body)
    except ValueError:  # pydantic's ValidationError is one
        return None
