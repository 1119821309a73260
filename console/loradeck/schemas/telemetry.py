"""Telemetry: a node's measurements of its GPUs and host. A field that could not be read is None, never a
made-up zero.
"""

from enum import StrEnum

from pydantic import Field, FiniteFloat

from loradeck.schemas.ids import Line, Whole, Wire, added


class NvmlState(StrEnum):
    """The state of NVML, NVIDIA's management library, on a node."""

    STARTING = "starting"
    OK = "ok"
    NO_GPU = "no_gpu"  # no libnvidia-ml.so.1, or it counts none
    HUNG = "hung"  # a call did not return within its deadline
    LOST = "lost"  # fewer GPUs than the last inventory
    REBOOT_REQUIRED = "reboot_required"  # library and driver differ (rc 18)
    FAILED = "failed"


class GpuProcess(Wire):
    """A process that holds memory on a GPU."""

    pid: Whole
    memory_bytes: Whole | None
    instance: Line = added("", "`place` of the MIG instance that it computes in; '': in none, or not known")


class NvLink(Wire):
    """The NVLinks of a GPU together. Those that are neither `up` nor `down` are not known, or none ever was up."""

    links: Whole
    up: Whole
    down: Whole = Field(description="inactive, though this card had one that was up since the sampler started")
    speed_mbps: Whole | None = Field(None, description="of one link in one direction, in MB/s")
    errors: dict[Line, Whole] = Field(
        {}, max_length=16, description="growth in five minutes by kind; absent: not known"
    )


class MigInstance(Wire):
    """A part of a GPU in MIG mode that computes for itself: a compute instance, with the memory of its GPU instance."""

    place: Line = Field(description="as 0/7/0: index of the GPU, id of the GPU instance, id of the compute instance")
    uuid: Line
    profile: Line = Field(description="as 3g.40gb: its part of the SMs, and its memory")
    memory_used: Whole | None = Field(None, description="bytes")
    memory_total: Whole | None = Field(None, description="bytes")


class Gpu(Wire):
    """One GPU as NVML reports it."""

    index: Whole
    uuid: Line
    name: Line
    utilisation: Whole | None = Field(None, description="percent of the last sample period")
    memory_used: Whole | None = Field(None, description="bytes")
    memory_total: Whole | None = Field(None, description="bytes")
    power_w: FiniteFloat | None = None
    power_limit_w: FiniteFloat | None = None
    temperature_c: Whole | None = None
    clock_sm_mhz: Whole | None = None
    clock_mem_mhz: Whole | None = None
    throttle: tuple[Line, ...] = Field((), max_length=64, description="clock event reasons that slow it, by name")
    ecc_uncorrected: Whole | None = None
    ecc_corrected: Whole | None = None
    remapped_rows: Whole | None = None
    xids: tuple[Whole, ...] = Field(
        (), max_length=64, description="XID errors seen since the sampler started, newest last, at most 8"
    )
    processes: tuple[GpuProcess, ...] = Field((), max_length=4096)
    nvlink: NvLink | None = added(None, "None: not known, as where the card has none")
    mig: bool | None = added(None, "whether it is divided into instances; None: not known, as where it cannot be")
    instances: tuple[MigInstance, ...] | None = added(None, "None: it is not divided, or not known", max_length=64)


class Host(Wire):
    """Load and memory of a node's host; memory in bytes."""

    cpu_percent: FiniteFloat = Field(description="0 to 100 of the whole host")
    memory_used: Whole
    memory_total: Whole
    load1: FiniteFloat
