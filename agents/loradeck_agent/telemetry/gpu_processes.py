"""Finds the GPUs that an engine uses by its processes: an engine and all that it started are one session."""

import contextlib
import os
from collections.abc import Iterable

from loradeck.schemas.telemetry import Gpu


def gpus_of(leader: int | None, gpus: Iterable[Gpu]) -> tuple[int, ...]:
    """Indices of the GPUs on which a process of the leader's session was seen; none where no process is known."""
    if leader is None:
        return ()
    return tuple(gpu.index for gpu in gpus if any(_session(process.pid) == leader for process in gpu.processes))


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):  # it has ended since
        return os.getsid(pid)
    return None
