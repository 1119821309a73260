"""Reads CPU, memory and load of the host from /proc, as psutil would: that takes a megabyte of an agent's 50."""

import os
import time
from pathlib import Path

from loradeck.schemas.telemetry import Host

_PERIOD_S = 0.9
"""CPU time is a difference: over much less than a second it is noise."""

_IDLE = slice(3, 5)
"""Idle and waiting for a disk, among the times of /proc/stat (proc_stat(5))."""

_COUNTED = 8
"""The times after them are of guests, and stand in the first ones already."""


class HostReader:
    """Reads the host at most once in _PERIOD_S, however often it is asked."""

    def __init__(self) -> None:
        self._ticks = _ticks()
        self._read_at = time.monotonic()
        self._last: Host | None = None

    def read(self) -> Host | None:
        """The host's figures; None until a first period has passed."""
        now = time.monotonic()
        if now - self._read_at >= _PERIOD_S:
            self._read_at = now
            (busy, total), self._ticks = self._ticks, _ticks()
            passed = self._ticks[1] - total
            memory_total, available = _memory()
            self._last = Host(
                cpu_percent=round(100 * (self._ticks[0] - busy) / passed, 1) if passed > 0 else 0.0,
                memory_used=memory_total - available,
                memory_total=memory_total,
                load1=os.getloadavg()[0],
            )
        return self._last


def _ticks() -> tuple[int, int]:
    """Returns the clock ticks since boot in which the CPUs were busy, and all of them."""
    times = [int(time) for time in Path("/proc/stat").read_text().partition("\n")[0].split()[1 : _COUNTED + 1]]
    return sum(times) - sum(times[_IDLE]), sum(times)


def _memory() -> tuple[int, int]:
    """Returns the bytes of memory that there are, and those that are available."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kb = {words[0]: int(words[1]) for words in lines}
    return kb["MemTotal:"] * 1024, kb["MemAvailable:"] * 1024
