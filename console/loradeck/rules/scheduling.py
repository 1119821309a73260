"""Which job goes first, which node can take it, and whether an attempt that came to nothing is tried again."""

from __future__ import annotations

from collections.abc import Iterable

from loradeck.schemas.jobs import CRASHES, MOVED_ON, Job
from loradeck.schemas.telemetry import Gpu, Host

ATTEMPTS = 3
"""How often a job is begun before a crash, a lost node or a preemption fails it. Attempts that ended because their
node was drained do not count, and neither do those before somebody resumed it."""


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """The highest priority first; of the same, the oldest. A job that is tried again keeps its place."""
    return sorted(jobs, key=lambda job: (-job.priority, job.created_ms, job.id))


def has_memory(need_gb: float | None, host: Host | None, gpus: Iterable[Gpu]) -> bool:
    """Whether so much (GB of 10^9 bytes) is free: on one GPU where the node has some, else on the host.

    What a node did not report is not there.
    """
    if need_gb is None:
        return True
    free = [gpu.memory_total - (gpu.memory_used or 0) for gpu in gpus if gpu.memory_total is not None]
    if not free and host is not None:
        free = [host.memory_total - host.memory_used]
    return max(free, default=0) >= need_gb * 1e9


def tried_again(code: str, attempt: int, counted_from: int = 0) -> bool:
    """Whether an attempt that ended so is followed by another.

    A preemption (75), a lost node and a crash are; bad data (65), divergence (70) and too little memory (71) are not:
    the next attempt would end the same way. `counted_from`: attempts that do not count.
    """
    return code in CRASHES | MOVED_ON and attempt - counted_from < ATTEMPTS
