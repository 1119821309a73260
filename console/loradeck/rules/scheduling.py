"""Scheduling of jobs: their order, what a node lacks for one, which of its GPUs it gets, and whether it is repeated.

A job gets no GPU that fails, and none that something else uses, unless asked. Two processes that hold one GPU take each
other's memory: an engine that pages in an adapter beside a training step that grows ends one of them. GPUs are named by
UUID, because numbers change with a reboot or a card that is gone.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loradeck.schemas.jobs import CRASHES, MOVED_ON, Job, JobSpec, ProveSpec, TrainSpec
from loradeck.schemas.link import JobRoom
from loradeck.schemas.telemetry import Gpu, Host

FAILING_XIDS = frozenset({46, 48, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140})
"""XIDs after which a GPU is to be drained or reset, by NVIDIA's catalogue: of memory, NVLink, the bus and its firmware.

Others (13, 31, 43, 45) are faults of a program.
"""


MEMORY_ERRORS = "uncorrected memory errors"
UNSEEN_BYTES = 2 << 30
"""Memory that no listed process holds, from which on a GPU counts as used: the driver itself takes up to 1 GiB."""


class NoFreeGpu(Exception):
    """There are not as many GPUs as are needed; the message says of each that is left out why.

    `later`: there will be, once jobs have ended that hold some. `soon`: perhaps, once a sample shows that memory was
    let go of which no process is seen: it may be one's that has just ended.
    """

    def __init__(self, said: str, *, later: bool, soon: bool) -> None:
        super().__init__(said)
        self.later, self.soon = later, soon


def failing(gpu: Gpu) -> str | None:
    """Why a GPU gets no work until it was reset; None if nothing speaks against it.

    XIDs count from when the agent began to sample, memory errors from when the driver was loaded.
    """
    if found := sorted(FAILING_XIDS.intersection(gpu.xids)):
        return f"XID {' '.join(map(str, found))}"
    if gpu.ecc_uncorrected:
        return f"{gpu.ecc_uncorrected} {MEMORY_ERRORS}"
    return None


def gpu_faults(gpu: Gpu) -> tuple[str, ...]:
    """The kinds of faults for which a GPU gets no work: each stays the same one however often it came."""
    kinds = [f"XID {xid}" for xid in sorted(FAILING_XIDS.intersection(gpu.xids))]
    return (*kinds, MEMORY_ERRORS) if gpu.ecc_uncorrected else tuple(kinds)


def links_fail(gpu: Gpu) -> bool:
    """Tells whether NVLinks of a GPU are down, or count errors; one that MIG divides does not use them.

    It keeps no work away: the NVLink error that does is XID 74.
    """
    return gpu.nvlink is not None and not gpu.mig and any((gpu.nvlink.down, *gpu.nvlink.errors.values()))


def world_sizes(processes: int, pieces: int, *, resumed: bool) -> tuple[int, ...]:
    """The numbers of processes that a run may be given, the most wanted first; fewer only where it goes on.

    Each is to have as many of a step's `pieces` as every other, so that a step stays the recipe's.
    """
    return tuple(n for n in range(processes, 0 if resumed else processes - 1, -1) if pieces % n == 0)


def gpu_counts(spec: JobSpec, *, resumed: bool) -> tuple[int, ...]:
    """The numbers of GPUs, one for each process, that a job may get, most wanted first; empty: it needs none."""
    if isinstance(spec, TrainSpec):
        return world_sizes(spec.processes, spec.pieces, resumed=resumed)
    return (1,) if isinstance(spec, ProveSpec) else ()


def emptiest_first(gpus: Iterable[Gpu]) -> list[Gpu]:
    """Sorts GPUs by their free memory, the most first: in this order jobs get them."""
    return sorted(gpus, key=lambda gpu: (gpu.memory_used or 0) - (gpu.memory_total or 0))


@dataclass(frozen=True)
class Holders:
    """What may hold GPUs of a node."""

    engines: Mapping[str, str]
    """UUID -> the engine that is configured to compute on it."""
    running: Collection[int]
    """Ids of the processes on GPUs that still exist; what NVML lists may have ended since."""
    shared: Collection[str] = ()
    """UUIDs that the node's configuration gives to jobs, whatever else computes there."""
    jobs: Mapping[str, str] = field(default_factory=dict)
    """UUID -> the job that it is reserved for."""


def _taken(gpu: Gpu, by: Holders) -> str:
    """Says what keeps a GPU from a job, of all that is known; '': nothing."""
    if why := failing(gpu):
        return why
    if gpu.mig:
        return "in MIG mode"
    if gpu.uuid in by.jobs:
        return f"job {by.jobs[gpu.uuid]}"
    if by.shared:
        return "" if gpu.uuid in by.shared else "not given to jobs"
    if gpu.uuid in by.engines:
        return f"engine {by.engines[gpu.uuid]}"
    others = [process.pid for process in gpu.processes if process.pid in by.running]
    return f"process {others[0]}" if others else ""


def _unseen(gpu: Gpu, by: Holders) -> str:
    """Says what processes hold that are not seen, as in other containers or where a driver lists none; '': little."""
    held = [process.memory_bytes for process in gpu.processes]
    unseen = (gpu.memory_used or 0) - sum(size or 0 for size in held)
    known = not by.shared and None not in held and unseen > UNSEEN_BYTES
    return f"{unseen / (1 << 30):.1f} GiB in use by processes that are not seen here" if known else ""


def free_gpus(gpus: Iterable[Gpu], by: Holders) -> tuple[list[Gpu], list[str]]:
    """Says which GPUs a job may be given, and of each other one why not."""
    free, why = [], []
    for gpu in gpus:
        if taken := _taken(gpu, by) or _unseen(gpu, by):
            why.append(f"{gpu.uuid}: {taken}")
        else:
            free.append(gpu)
    return free, why


def reserved(gpus: Sequence[Gpu], counts: Sequence[int], by: Holders) -> tuple[str, ...]:
    """Chooses the GPUs of a job by UUID: those with the most free memory first.

    `counts`: one for each process of the job; the first of several that can be had. Raises: NoFreeGpu.
    """
    free, why = free_gpus(gpus, by)
    count = next((count for count in counts if count <= len(free)), None)
    if count is None:
        coming = len(free) + sum(gpu.uuid in by.jobs and failing(gpu) is None for gpu in gpus)
        unseen = sum(not _taken(gpu, by) and bool(_unseen(gpu, by)) for gpu in gpus)
        said = f"{len(free)} of {min(counts)} GPUs are free; {'; '.join(why) or 'the node has no more'}"
        raise NoFreeGpu(said, later=coming >= min(counts), soon=coming + unseen >= min(counts))
    return tuple(gpu.uuid for gpu in emptiest_first(free)[:count])


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
