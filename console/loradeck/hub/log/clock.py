"""The two clocks of a hub, in one place, so that a test can set both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Clock:
    """`monotonic` gives seconds, for durations; `now_ms` milliseconds since 1970 UTC, for what is written down."""

    monotonic: Callable[[], float] = time.monotonic
    now_ms: Callable[[], int] = _wall_ms
