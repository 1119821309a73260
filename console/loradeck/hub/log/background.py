"""Work that nobody waits for: an attestation to be written, a promote on its way, a gate to be judged."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("loradeck.hub.log.background")


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
