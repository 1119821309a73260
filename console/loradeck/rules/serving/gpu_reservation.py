"""Which GPUs of a node a training job gets: none that fails, and none that something else uses, unless asked.

Two processes that hold one GPU take each other's memory: an engine that pages in an adapter beside a training step that
grows ends one of them. GPUs are named by UUID, because numbers change with a reboot or a card that is gone.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loradeck.schemas.jobs import JobSpec, ProveSpec, TrainSpec
from loradeck.schemas.telemetry import Gpu

FAILING_XIDS = frozenset({46, 48, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140})
"""XIDs after which a GPU is to be drained or reset, by NVIDIA's catalogue: of memory, NVLink, the bus and its firmware.

Others (13, 31, 43, 45) are faults of a program.
"""


MEMORY_ERRORS = "uncorrected memory errors"


class NoFreeGpu(Exception):
    """There are not as many GPUs as are needed; the message says of each that is left out why.

    `later`: there will be, once jobs have ended that hold some.
    """

    def __init__(self, said: str, *, later: bool) -> None:
        super().__init__(said)
        self.later = later


def failing(gpu: Gpu) -> str | None:
    """Why a GPU gets no work until it was reset; None if nothing speaks against it.

    XIDs count from when the agent began to sample, memory errors from when the driver was loaded.
    """
    if found := sorted(FAILING_XIDS.intersection(gpu.xids)):
        return f"XID {' '.join(map(str, found))}"
    if gpu.ecc_uncorrected:
        return f"{gpu.ecc_uncorrected} {MEMORY_ERRORS}"
    return None


def faults(gpu: Gpu) -> tuple[str, ...]:
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


def free_gpus(gpus: Iterable[Gpu], by: Holders) -> tuple[list[Gpu], list[str]]:
    """Says which GPUs a job may be given, and of each other one why not."""
    free, why = [], []
    for gpu in gpus:
        others = [process.pid for process in gpu.processes if process.pid in by.running]
        taken = (
            failing(gpu)
            or (gpu.mig and "in MIG mode")
            or (gpu.uuid in by.jobs and f"job {by.jobs[gpu.uuid]}")
            or (by.shared and gpu.uuid not in by.shared and "not given to jobs")
            or (not by.shared and gpu.uuid in by.engines and f"engine {by.engines[gpu.uuid]}")
            or (not by.shared and others and f"process {others[0]}")
        )
        if taken:
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
        held = sum(gpu.uuid in by.jobs and failing(gpu) is None for gpu in gpus)
        said = f"{len(free)} of {min(counts)} GPUs are free; {'; '.join(why) or 'the node has no more'}"
        raise NoFreeGpu(said, later=len(free) + held >= min(counts))
    return tuple(gpu.uuid for gpu in emptiest_first(free)[:count])
