"""The clocks of a hub, in one place, so that a test can set them, and its work that nobody waits for."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from loradeck.rules import clocks

log = logging.getLogger("loradeck.hub.log.event_loop")


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
