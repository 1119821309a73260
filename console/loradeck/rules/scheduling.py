"""Scheduling of jobs: their order, whether a node has the memory, and whether a failed attempt is repeated."""

from collections.abc import Iterable

from loradeck.rules.serving.gpu_reservation import failing
from loradeck.schemas.jobs import CRASHES, MOVED_ON, Job
from loradeck.schemas.telemetry import Gpu, Host

ATTEMPTS = 3
"""How often a job is started before a crash, a lost node or a preemption fails it.

Preempted attempts do not all count (`counts`), and neither do those before a person resumed it.
"""


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """Sorts jobs by priority, highest first, then by age, oldest first. A repeated job keeps its place."""
    return sorted(jobs, key=lambda job: (-job.priority, job.created_ms, job.id))


def has_memory(need_gb: float | None, host: Host | None, gpus: Iterable[Gpu]) -> bool:
    """Tells whether `need_gb` (GB of 10^9 bytes) is free: on one GPU if the node has GPUs, else on the host.

    A GPU that fails gets no job, and a node whose GPUs all fail gets none either. Memory that a node did not report
    counts as absent. None needs no memory.
    """
    gpus = tuple(gpus)
    if gpus and all(failing(gpu) is not None for gpu in gpus):
        return False
    if need_gb is None:
        return True
    with_memory = [gpu for gpu in gpus if gpu.memory_total is not None]
    free = [(gpu.memory_total or 0) - (gpu.memory_used or 0) for gpu in with_memory if failing(gpu) is None]
    if not with_memory and host is not None:
        free = [host.memory_total - host.memory_used]
    return max(free, default=0) >= need_gb * 1e9


def counts(*, drained: bool, began: int, reached: int) -> bool:
    """Tells whether a preempted attempt counts against `ATTEMPTS`: not where its node was drained, nor where it got on.

    `began`, `reached`: steps of its newest checkpoints, before and after it. So a time limit ends no run that gets on.
    """
    return not drained and reached <= began


def tried_again(code: str, attempt: int, counted_from: int = 0) -> bool:
    """Tells whether an attempt that ended with this code is followed by another.

    A preemption (75), a lost node and a crash are; bad data (65), divergence (70) and too little memory (71) are not:
    the next attempt would end alike. `counted_from`: number of earlier attempts that do not count.
    """
    return code in CRASHES | MOVED_ON and attempt - counted_from < ATTEMPTS
