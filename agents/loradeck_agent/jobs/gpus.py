"""The GPUs that an executor sees: those that are reserved for it, and no others."""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from loradeck.rules.serving.gpu_reservation import NoFreeGpu, reserved
from loradeck.schemas.telemetry import Gpu, NvmlState
from loradeck_agent.host.engine_config import EngineConfig, VllmEngine
from loradeck_agent.host.errors import AgentError
from loradeck_agent.telemetry.sampler_watch import Telemetry

STARTING_S = 60
"""Seconds that a job waits for the first sample of the GPUs."""

FIX = "free one, or name in `gpus` under [jobs] those that jobs may share with an engine"


async def visible_gpus(
    counts: Sequence[int], telemetry: Telemetry, engines: Iterable[EngineConfig], given: Collection[str]
) -> str | None:
    """Reserves GPUs for an executor. Returns its CUDA_VISIBLE_DEVICES; None on a node without any: it is left alone.

    Args:
        counts: of GPUs, one for each process that trains, the most wanted first; empty: it computes on the CPU.
        engines: of this node; those that name their GPUs keep them.
        given: UUIDs of those that jobs may use beside an engine.

    Raises: AgentError: `gpus_taken`: so many are not free, or nobody can say.
    """
    for _ in range(STARTING_S):  # of an agent that was started just now
        if telemetry.current()[0] is not NvmlState.STARTING:
            break
        await asyncio.sleep(1)
    state, gpus = telemetry.current()
    if not counts:
        return "" if gpus else None
    if state is NvmlState.NO_GPU or (state is NvmlState.FAILED and not gpus):
        return None
    if state not in (NvmlState.OK, NvmlState.LOST):
        raise AgentError("gpus_taken", "nobody can say which GPUs are free", f"NVML: {state}", "see the agent's log")
    held = {uuid: engine.name for engine in engines if isinstance(engine, VllmEngine) for uuid in engine.gpus}
    try:
        return ",".join(reserved(gpus, counts, engines=held, running=_running(gpus), shared=given))
    except NoFreeGpu as error:
        raise AgentError("gpus_taken", "the job finds no GPU", str(error), FIX) from error


def _running(gpus: Iterable[Gpu]) -> set[int]:
    """Ids of processes on these GPUs that still exist; the list is some seconds old."""
    listed = {process.pid for gpu in gpus for process in gpu.processes}
    return {pid for pid in listed if Path(f"/proc/{pid}").exists()}
