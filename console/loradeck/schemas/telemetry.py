"""Telemetry: a node's measurements of its GPUs and host. A field that could not be read is None, never a
made-up zero.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from loradeck.schemas.ids import Wire


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

    pid: int
    memory_bytes: int | None


class Gpu(Wire):
    """One GPU as NVML reports it."""

    index: int
    uuid: str
    name: str
    utilisation: int | None = Field(None, description="percent of the last sample period")
    memory_used: int | None = Field(None, description="bytes")
    memory_total: int | None = Field(None, description="bytes")
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    clock_sm_mhz: int | None = None
    clock_mem_mhz: int | None = None
    throttle: tuple[str, ...] = Field((), description="clock event reasons that slow it, by name")
    ecc_uncorrected: int | None = None
    ecc_corrected: int | None = None
    remapped_rows: int | None = None
    xids: tuple[int, ...] = Field((), description="XID errors seen since the sampler started, newest last, at most 8")
    processes: tuple[GpuProcess, ...] = ()


class Host(Wire):
    """Load and memory of a node's host; memory in bytes."""

    cpu_percent: float = Field(description="0 to 100 of the whole host")
    memory_used: int
    memory_total: int
    load1: float
