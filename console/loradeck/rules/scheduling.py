"""Scheduling of jobs: their order, what a node lacks for one, and whether a failed attempt is repeated."""

import math
from collections.abc import Iterable, Mapping, Sequence

from loradeck.rules.serving.gpu_reservation import emptiest_first, failing, gpu_counts
from loradeck.schemas.jobs import CRASHES, MOVED_ON, Job
from loradeck.schemas.link import JobRoom
from loradeck.schemas.telemetry import Gpu, Host

ATTEMPTS = 3
"""How often a job is started before a crash, a lost node or a preemption fails it.

Preempted attempts do not all count (`counts`), and neither do those before a person resumed it.
"""

KEPT_AFTER_MS = 600_000
"""How long a job waits for several GPUs before those of a node are kept for it."""


def in_order(jobs: Iterable[Job]) -> list[Job]:
    """Sorts jobs by priority, highest first, then by age, oldest first. A repeated job keeps its place."""
    return sorted(jobs, key=lambda job: (-job.priority, job.created_ms, job.id))


def shortage(job: Job, given: Sequence[Job], room: JobRoom | None, host: Host | None, gpus: Sequence[Gpu]) -> str:
    """Says what a node that has been given jobs lacks for another one beside them; '': nothing.

    A job that has begun there is in the node's figures; what one is yet to take, or to grow into, is counted here. The
    memory that a job asks for (GB of 10^9 bytes) must be free on each GPU that it gets, or on the host where it gets
    none. A GPU that fails gets no job, and a node whose GPUs all fail gets none either. Memory that a node did not
    report counts as absent.

    Args:
        given: the jobs that the node was given and that are not over.
        room: None: the node runs one job at a time.
    """
    well = [gpu for gpu in gpus if failing(gpu) is None]
    if gpus and not well:
        return "all of its GPUs fail"
    if room is None and given:
        return "it runs one job at a time"
    held = {hold.job: hold for hold in room.held} if room is not None else {}
    counts = gpus_of(job) if gpus else ()
    on_host = counts == () or all(gpu.memory_total is None for gpu in well)
    if counts:
        free = [gpu for gpu in well if not gpu.mig and (room is None or gpu.uuid in room.gpus)]
        coming = sum(max(gpus_of(other), default=0) for other in given if other.id not in held)
        left = emptiest_first(free)[coming:]
        if len(left) < min(counts):
            taken = room.taken if room is not None else ""
            return f"{len(left)} of {min(counts)} GPUs are free" + (f"; {taken}" if taken else "")
        last = left[min(counts) - 1]
        free_bytes = (last.memory_total or 0) - (last.memory_used or 0)
    else:
        beside = [other for other in given if not (gpus and gpus_of(other))]
        if room is not None and len(beside) >= room.at_once:
            return f"no more than {room.at_once} such at once"
    if job.memory_gb is None:
        return ""
    if on_host:
        promised = sum(
            max((other.memory_gb or 0) * 1e9 - (held[other.id].memory_bytes if other.id in held else 0), 0)
            for other in given
            if not (gpus and gpus_of(other))
        )
        free_bytes = round(host.memory_total - host.memory_used - promised) if host is not None else 0
    return "" if free_bytes >= job.memory_gb * 1e9 else f"{job.memory_gb:g} GB of memory are not free"


def kept_node(job: Job, now_ms: int, nodes: Mapping[str, tuple[JobRoom, Sequence[Gpu]]]) -> str | None:
    """Names the node whose GPUs no later job gets, so that one that waits for several finds them free together.

    It is the one with the most free of those that have enough, jobs' own included. What is kept there becomes only
    more, so that another comes before it only where the job is nearer to its begin.

    None: the job wants no more than one, has not waited for `KEPT_AFTER_MS`, or no node has enough that are well and
    have, beside what no job holds, the memory that it asks for.

    Args:
        nodes: those that the job suits, with the room that they have reported.
    """
    least = min(gpus_of(job), default=0)
    if least < 2 or now_ms - job.created_ms < KEPT_AFTER_MS:
        return None
    free = dict[str, int]()
    for name, (room, gpus) in nodes.items():
        held = {uuid for hold in room.held for uuid in hold.gpus}
        spare = {g.uuid: (g.memory_total or math.inf) - (0 if g.uuid in held else g.memory_used or 0) for g in gpus}
        fit = {gpu.uuid for gpu in gpus if failing(gpu) is None and spare[gpu.uuid] >= (job.memory_gb or 0) * 1e9}
        if len(fit & (held | {*room.gpus})) >= least:
            free[name] = len(fit & {*room.gpus})
    return min(free, key=lambda name: (-free[name], name), default=None)


def gpus_of(job: Job) -> tuple[int, ...]:
    """The numbers of GPUs that a job may be given, the most wanted first; empty: it computes on none."""
    return gpu_counts(job.spec, resumed=job.checkpoint is not None)


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
