"""The store, used from one thread of its own while everything else is on one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from loradeck.store.interface import OutcomeUnknown, Store, StoreError

log = logging.getLogger("loradeck.hub.store")

T = TypeVar("T")


class StoreThread:
    """Runs calls on a `Store` one after the other, in the thread that opened it."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            self._store = self._pool.submit(open_store).result()
        except BaseException:
            self._pool.shutdown()
            raise

    async def __call__(self, call: Callable[[Store], T]) -> T:
        """The call's result. Whatever the store raises is raised here.

        After an OutcomeUnknown the store has been opened again, as far as the disk allows: what is read next
        is what is durable.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, call)

    def _run(self, call: Callable[[Store], T]) -> T:
        try:
            return call(self._store)
        except OutcomeUnknown:
            log.error("a write's outcome is not known: opening the store again")
            try:
                self._store.reopen()
            except StoreError as error:  # the first one is the one to tell; the next call tries again
                log.error("the store cannot be opened again code=%s %s", error.code, error)
            raise

    def now(self, call: Callable[[Store], T]) -> T:
        """The same, blocking: only before the event loop runs or after it has ended."""
        return self._pool.submit(call, self._store).result()

    def close(self) -> None:
        self._pool.submit(self._store.close).result()
        self._pool.shutdown()
