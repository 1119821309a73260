"""The store, used from one thread of its own while everything else is on one event loop.

Moves go first: what is only written down for later (attestations, jobs, totals, an audit) waits until nobody
is waiting for an answer, and is done in pieces short enough that a move never waits long for one.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Concatenate, ParamSpec, TypeVar

from loradeck.hub.log.disk_reserve import DiskReserve
from loradeck.store.interface import DiskFull, OutcomeUnknown, StoreError
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.log.store_thread")

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
