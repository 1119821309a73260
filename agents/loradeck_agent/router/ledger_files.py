"""Files of rows for the answer ledger, which a router writes behind its callers' back and the agent takes away.

FOLDER/*.open   the rows of the running hour; its writer holds an flock on it, so that one without is nobody's any more
FOLDER/*.rows   complete

A line is the tenant, the admission in milliseconds since 1970 UTC and the row as JSON, with tabs between. One that
begins with a tab has the number of rows that had to be given up before it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the agent, which reads the files, has no memory for it
    from loradeck_agent.router.trace import Row

log = logging.getLogger(__name__)

FOLDER = "ledger"
OPEN, COMPLETE = ".open", ".rows"

FOLDER_BYTES = 512 << 20
"""Most bytes of files that no router writes any more. Beyond it the oldest go, while no agent takes them."""


def unlocked(path: Path) -> bool:
    """Tells whether no router writes a file any more."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


FLUSH_S = 0.25
"""Seconds between two writes; a router that is killed loses the rows since the last one."""

WAITING = 20_000
"""Rows that wait in memory at most, while the disk does not take them."""

FILE_BYTES = 32 << 20
"""Bytes from which on a file is complete before its hour is over."""

_AT_ONCE = 128
"""Rows that are put into words at a time, between which callers are served: a tenth of a millisecond and a half."""

_HOUR_S = 3600


class LedgerFiles:
    """Takes rows as they are complete, and writes them from another thread.

    Args:
        folder: made if it is missing.
        boot: names the files of this router.
    """

    def __init__(self, folder: Path, boot: str) -> None:
        self._folder, self._boot = folder, boot
        self._rows: deque[Row] = deque()
        self._lost = 0
        self._file = -1
        self._path: Path | None = None
        self._size = 0
        self._hour = 0
        self._torn = False
        self._refused = False
        self._task: asyncio.Task[None] | None = None

    def add(self, row: Row) -> None:
        """Notes a row, and nothing else: this is called on the way of a request."""
        if len(self._rows) < WAITING:
            self._rows.append(row)
        else:
            self._lost += 1

    def start(self) -> None:
        """Writes what is noted, again and again, until `close`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="answer ledger")

    async def close(self) -> None:
        """Writes what is noted, and completes the file."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()
        await asyncio.to_thread(self._complete)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self._flush()

    async def _flush(self) -> None:
        lines = [f"\t{self._lost}\n"] if self._lost else []
        count, lost = 0, self._lost
        while self._rows and count < WAITING:
            for _ in range(min(_AT_ONCE, len(self._rows))):
                row = self._rows.popleft()
                lines.append(f"{row.tenant}\t{row.admitted_ms}\t{row.ledger_line()}\n")
                count += 1
            await asyncio.sleep(0)
        if lines or (self._file >= 0 and _hour() != self._hour):
            self._lost -= lost
            if not await asyncio.to_thread(self._write, "".join(lines).encode()):
                self._lost += lost + count

    # ---- in the other thread -------------------------------------------------------------------------------

    def _write(self, data: bytes) -> bool:
        hour = _hour()
        try:
            if self._file >= 0 and (hour != self._hour or self._size > FILE_BYTES):
                self._complete()
            if not data:
                return True
            if self._file < 0:
                self._begin(hour)
            view = memoryview(b"\n" + data if self._torn else data)
            self._torn = True
            while view:
                written = os.write(self._file, view)
                self._size += written
                view = view[written:]
            self._torn = False
        except OSError as error:
            if not self._refused:
                log.error("rows of the answer ledger are lost until the disk takes them: %s", error)
            self._refused = True
            return False
        self._refused = False
        return True

    def _begin(self, hour: int) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"{time.time_ns() // 1_000_000:013d}-{self._boot}{OPEN}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        self._file, self._path, self._hour, self._size, self._torn = file, path, hour, 0, False

    def _complete(self) -> None:
        if self._file < 0 or self._path is None:
            return
        file, self._file = self._file, -1
        try:
            with suppress(FileNotFoundError):
                self._path.rename(self._path.with_suffix(COMPLETE))
            self._lost += give_up_oldest(self._folder, FOLDER_BYTES)
        except OSError as error:
            log.error("%s keeps its name, and the agent takes it as a killed router's: %s", self._path.name, error)
        finally:
            os.close(file)


def _hour() -> int:
    return int(time.time()) // _HOUR_S


def give_up_oldest(folder: Path, most: int) -> int:
    """Removes the oldest files that no router writes, down to `most` bytes. Returns the lines that went."""
    lost, sizes = 0, dict[Path, int]()
    for path in sorted([*folder.glob(f"*{COMPLETE}"), *folder.glob(f"*{OPEN}")]):
        with suppress(FileNotFoundError):  # an agent has taken it meanwhile
            if path.suffix == COMPLETE or unlocked(path):
                sizes[path] = path.stat().st_size
    for path in sizes:
        if sum(sizes.values()) <= most:
            break
        with suppress(FileNotFoundError):
            with path.open("rb") as file:
                lost += sum(1 for _ in file)
            path.unlink()
            log.error("%s is given up: no agent took it, and the ledger's files fill their room", path.name)
        sizes[path] = 0
    return lost
