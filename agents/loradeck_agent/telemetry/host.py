"""Reads CPU, memory and load of the host."""

import os
import time

import psutil

from loradeck.schemas.telemetry import Host

_PERIOD_S = 0.9
"""CPU time is a difference: over much less than a second it is noise."""


class HostReader:
    """Reads the host at most once in _PERIOD_S, however often it is asked."""

    def __init__(self) -> None:
        psutil.cpu_percent(None)  # from here on; what this first call returns means nothing
        self._read_at = time.monotonic()
        self._last: Host | None = None

    def read(self) -> Host | None:
        """The host's figures; None until a first period has passed."""
        now = time.monotonic()
        if now - self._read_at >= _PERIOD_S:
            self._read_at = now
            memory = psutil.virtual_memory()
            self._last = Host(
                cpu_percent=psutil.cpu_percent(None),
                memory_used=memory.total - memory.available,
                memory_total=memory.total,
                load1=os.getloadavg()[0],
            )
        return self._last
