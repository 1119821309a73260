"""What a hub runs on: its clocks, in one place, so that a test can set them; work that nobody waits for; and the store.

The store is used from one thread of its own, and everything else is on one event loop. Moves go first: what is only
written down for later (attestations, jobs, totals, an audit) waits until nobody is waiting for an answer, and is done
in pieces short enough that a move never waits long for one.
"""

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from loradeck.rules import clocks
from loradeck.rules.errors import Refused
from loradeck.store.interface import DiskFull, OutcomeUnknown, StoreError
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.log.runtime")


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class AwakeClock:
    """A monotonic clock, in seconds, that stands still while its process does not run (a stopped process, a snapshot of
    the machine). A node that could not be heard in that time is not lost by it.

    It is looked at many times a second: what passes between two looks is how a pause is noticed.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._looked = monotonic()
        self._slept = 0.0

    def __call__(self) -> float:
        """Seconds, of which those that the process slept are left out."""
        now = self._monotonic()
        self._slept += clocks.slept(now - self._looked)
        self._looked = now
        return now - self._slept


@dataclass
class Clock:
    """`monotonic` gives seconds, for durations; `now_ms` milliseconds since 1970 UTC, for what is written down."""

    monotonic: Callable[[], float] = field(default_factory=AwakeClock)
    now_ms: Callable[[], int] = _wall_ms


@dataclass
class StepWatch:
    """Notices that the wall clock was set."""

    _clock: Clock
    _wall_ms: int = field(init=False)
    _passed: float = field(init=False)

    def __post_init__(self) -> None:
        self._look()

    def _look(self) -> None:
        self._wall_ms, self._passed = self._clock.now_ms(), time.monotonic()

    def step_ms(self) -> int:
        """By how many milliseconds it was set since the last call; 0: by less than a minute, or not at all."""
        wall_ms, passed = self._wall_ms, self._passed
        self._look()
        return clocks.step(self._wall_ms - wall_ms, self._passed - passed)


END_S = 5.0
"""How long work that is under way may take to end at a shutdown, seconds."""


class Background:
    """The tasks that run in the background. Failures are logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs a coroutine as a task, and returns it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", exc_info=error)

    async def stop(self) -> None:
        """Waits for what is under way for `END_S` seconds, then cancels the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


DISK_FULL = "disk_full"
"""The problem code of what the full disk refuses."""

MOST_BYTES = 64 << 20
"""Bytes of the reserve, on all but small disks: some ten thousand moves."""

PIECES = 8
"""Parts in which it is given up: whatever else fills the disk takes a part of them, and not all at once."""


class DiskReserve:
    """A file on the hub's disk that is given up piece by piece where that is full, so that R goes on.

    Before that, uploads are refused. It is as large as there was room for, and used from the store's thread alone; its
    state is read from any.

    Attributes:
        exhausted: nothing was left of it when the disk last refused a write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        disk = os.statvfs(path.parent)
        self._wanted = min(MOST_BYTES, disk.f_blocks * disk.f_frsize // 64)
        self._piece = max(1, self._wanted // PIECES)
        self._held = path.stat().st_size if path.exists() else 0
        self.exhausted = False

    @property
    def in_use(self) -> bool:
        """Whether a part of it is given up: the disk is full."""
        return self._held < self._wanted

    def give(self) -> bool:
        """Gives up a piece of it. False: nothing is left."""
        self.exhausted = self._held == 0
        if self.exhausted:
            return False
        self._held = max(0, self._held - self._piece)
        os.truncate(self._path, self._held)
        return True

    def make(self) -> None:
        """Takes back what it lacks, and of the disk's free space no more than half."""
        held = min(self._wanted, self._held + self._free() // 2)
        if held - self._held >= min(self._piece, self._wanted - self._held) > 0:
            with suppress(OSError):  # somebody else was quicker: it is tried again
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(file, 0, held)
                finally:
                    os.close(file)
                self._held, self.exhausted = held, False

    def check_upload(self, size: int = 0) -> None:
        """Checks that an upload of `size` bytes leaves four times the reserve. Raises: Refused `disk_full`."""
        if self._free() - size < 4 * self._wanted:
            raise Refused(
                DISK_FULL,
                "the hub's disk is nearly full: what room is left is for moves",
                detail=f"{self._free() >> 20} MiB are free, {4 * self._wanted >> 20} MiB are kept",
                fix="free space on the hub's disk; loradeck hub collect removes files that nothing can go back to",
            )

    def _free(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize


T = TypeVar("T")
P = ParamSpec("P")
Work = tuple[Callable[[Store], Any], "Future[Any]"]


def calling(method: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> Callable[[Store], T]:
    """A call of one of the store's methods, which keeps its arguments as they are now: in a loop no lambda does."""
    return lambda store: getattr(store, method.__name__)(*args, **kwargs)


class StoreThread:
    """Runs calls on a `Store` one after the other, in the thread that opened it.

    A call that the full disk refuses is made again with a piece of `reserve`, while there is any.

    Raises: whatever `open_store` raises.
    """

    reserve: DiskReserve | None = None

    def __init__(self, open_store: Callable[[], Store], reserve: DiskReserve | None = None) -> None:
        self.reserve = reserve
        self._first: deque[Work] = deque()
        self._later: deque[Work] = deque()
        self._long: deque[Work] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._let = False  # whether other calls are made in the middle of a long one
        opened: Future[Store] = Future()
        self._thread = threading.Thread(target=self._main, args=(open_store, opened), name="store", daemon=True)
        self._thread.start()
        self._store = opened.result()

    @property
    def one_copy(self) -> bool:
        """Whether commits are on one server alone now; see `Store.one_copy`."""
        return self._store.one_copy

    async def __call__(self, call: Callable[[Store], T], *, background: bool = False) -> T:
        """The call's result. Whatever the store raises is raised here.

        After an OutcomeUnknown the store has been opened again, as far as the disk allows: what is read next
        is what is durable.
        """
        return await asyncio.wrap_future(self._put(call, self._later if background else self._first))

    async def long(self, call: Callable[[Store, Callable[[], None]], T]) -> T:
        """The result of a call that takes long. It lets others be made by calling what it gets beside the store.

        Raises: whatever the store raises; OutcomeUnknown also if another call ended so meanwhile.
        """
        work = self._put(lambda store: call(store, lambda: self._let_others(store)), self._long)
        return await asyncio.wrap_future(work)

    def now(self, call: Callable[[Store], T]) -> T:
        """The call's result, blocking: only before the event loop runs or after it has ended."""
        return self._put(call, self._first).result()

    def close(self) -> None:
        """Waits for all calls made before, then closes the store."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _put(self, call: Callable[[Store], T], queue: deque[Work]) -> Future[T]:
        future: Future[T] = Future()
        with self._wake:
            if self._closed:
                raise StoreError("the store is closed")
            queue.append((call, future))
            self._wake.notify()
        return future

    def _main(self, open_store: Callable[[], Store], opened: Future[Store]) -> None:
        try:
            store = self._with_room(open_store)
            if self.reserve is not None:
                self.reserve.make()
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(store)
        usable = True
        while (work := self._next()) is not None:
            usable = self._carry_out(store, work, usable)
        store.close()

    def _carry_out(self, store: Store, work: Work, usable: bool) -> bool:
        """Makes one call, and returns whether the store can be used after it."""
        call, future = work
        if not future.set_running_or_notify_cancel():
            return usable
        if not usable:
            usable = self._reopen(store)
        try:
            result = self._with_room(lambda: call(store))
        except BaseException as error:
            if isinstance(error, OutcomeUnknown) and usable and self._let:
                usable = False
            elif isinstance(error, OutcomeUnknown) and usable:
                usable = self._reopen(store)
            future.set_exception(error)
        else:
            future.set_result(result)
        return usable

    def _with_room(self, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except DiskFull:
                if self.reserve is None or not self.reserve.give():
                    raise
                log.error("the disk is full: a piece of the reserve is given up")

    def _let_others(self, store: Store) -> None:
        """Makes the calls that wait, in the middle of a long one.

        Raises: OutcomeUnknown: one of them ended so. The long call has to end before the store is opened again.
        """
        self._let = True
        try:
            while self._first or self._later:
                with self._wake:
                    work = (self._first or self._later).popleft()
                if not self._carry_out(store, work, usable=True):
                    raise OutcomeUnknown("the outcome of a move is not known: make the backup again")
        finally:
            self._let = False

    def _next(self) -> Work | None:
        with self._wake:
            while not self._first and not self._later and not self._long:
                if self._closed:
                    return None
                self._wake.wait()
            return (self._first or self._later or self._long).popleft()

    def _reopen(self, store: Store) -> bool:
        """Tells whether the store can be used again. Where it cannot, the next call tries again first."""
        log.error("the outcome of a write is not known: opening the store again")
        try:
            store.reopen()
        except StoreError as error:  # the first one is the one to tell
            log.error("the store cannot be opened again code=%s %s", error.code, error)
            return False
        return True
