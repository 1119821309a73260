"""The clocks of a hub, in one place, so that a test can set them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from loradeck.rules import clocks


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
