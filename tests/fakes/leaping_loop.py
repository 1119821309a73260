"""An event loop whose clock leaps: what is to be done in a minute is done at once, on a slow machine too.

`LeapingLoop` leaps by itself whenever it has nothing to do; `leap` moves the clock of any loop when a test says so.
"""

from __future__ import annotations

import asyncio
import selectors
from asyncio import TimerHandle
from typing import Any


def leap(seconds: float) -> None:
    """Moves the clock of the running loop on: whatever waits for a time until then is due at once."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]


class LeapingLoop(asyncio.SelectorEventLoop):
    """A loop whose time stands still while there is something to do, and else goes on to the next timer.

    For code that only sleeps and waits for other tasks: it does not wait for threads, processes or sockets.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(selectors.SelectSelector())

    def time(self) -> float:
        """Seconds since it was made, of its own clock."""
        return self._now

    def _run_once(self) -> None:
        inner: Any = self
        timers: list[TimerHandle] = inner._scheduled
        if not inner._ready:
            self._now = max(self._now, min((at.when() for at in timers if not at.cancelled()), default=0.0))
        super()._run_once()  # type: ignore[misc]
