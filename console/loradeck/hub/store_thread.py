"""The store, used from one thread of its own while everything else is on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from loradeck.store.interface import Store

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
        """The call's result. Whatever the store raises is raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, self._store)

    def now(self, call: Callable[[Store], T]) -> T:
        """The same, blocking: only before the event loop runs or after it has ended."""
        return self._pool.submit(call, self._store).result()

    def close(self) -> None:
        self._pool.submit(self._store.close).result()
        self._pool.shutdown()
