"""The GPUs that an executor sees."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from loradeck.schemas.jobs import EvaluateSpec, ExecutorSpec, JobAssignment
from loradeck.schemas.telemetry import Gpu, GpuProcess, NvmlState
from loradeck_agent.host.engine_config import VllmEngine
from loradeck_agent.host.errors import AgentError
from loradeck_agent.jobs import backend
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.executor import Executor
from loradeck_agent.jobs.gpus import visible_gpus
from loradeck_agent.jobs.local_processes import LocalProcesses
from loradeck_agent.serving.vllm.command import vllm_environment
from loradeck_agent.telemetry.sampler_watch import Telemetry

ENGINE = VllmEngine.model_validate(
    {"name": "e0", "kind": "vllm", "base": "/b", "slots": 4, "python": "/bin/python", "gpus": ["GPU-0"]}
)


class Sampled:
    """Telemetry as it is once the sampler has said its first lines."""

    def __init__(self, *samples: tuple[NvmlState, tuple[Gpu, ...]]) -> None:
        self.samples = list(samples)

    def current(self) -> tuple[NvmlState, tuple[Gpu, ...]]:
        return self.samples.pop(0) if len(self.samples) > 1 else self.samples[0]


def gpu(number: int, *pids: int) -> Gpu:
    processes = tuple(GpuProcess(pid=pid, memory_bytes=1) for pid in pids)
    return Gpu(index=number, uuid=f"GPU-{number}", name="H100", memory_used=0, memory_total=80, processes=processes)


async def seen(count: int, state: NvmlState, *gpus: Gpu, given: tuple[str, ...] = ()) -> str | None:
    return await visible_gpus((count,) if count else (), cast(Telemetry, Sampled((state, gpus))), [ENGINE], given)


async def test_a_job_sees_its_own_gpus_and_neither_an_engines_nor_one_that_a_process_holds() -> None:
    gpus = gpu(0), gpu(1, os.getpid()), gpu(2), gpu(3, 2**22 + 1)
    assert await seen(1, NvmlState.OK, *gpus) == "GPU-2"
    assert await seen(2, NvmlState.OK, *gpus) == "GPU-2,GPU-3", "that process has ended"
    with pytest.raises(AgentError, match="gpus_taken") as refused:
        await seen(3, NvmlState.OK, *gpus)
    assert "GPU-0: engine e0" in str(refused.value)
    assert f"GPU-1: process {os.getpid()}" in str(refused.value)
    assert await seen(1, NvmlState.OK, *gpus, given=("GPU-0",)) == "GPU-0"


async def test_what_computes_on_the_cpu_sees_none_and_a_node_without_gpus_is_left_alone() -> None:
    assert await seen(0, NvmlState.OK, gpu(2)) == ""
    assert await seen(1, NvmlState.NO_GPU) is None
    assert await seen(1, NvmlState.FAILED) is None


async def test_where_nobody_can_say_what_is_free_nothing_is_taken() -> None:
    with pytest.raises(AgentError, match="NVML: hung"):
        await seen(1, NvmlState.HUNG, gpu(2))


async def test_the_process_gets_what_was_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ("/bin/sh", "-c", "echo sees $CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(backend, "executor_argv", lambda kind, spec: argv)
    spec = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)
    attempt = Attempt(job=JobAssignment(id="j1", lease=1, attempt=1, spec=spec))
    executor = Executor(workload := LocalProcesses(ExecutorFolder(tmp_path), attempt))
    fields: dict[str, Any] = {"run": "j1", "attempt": 1, "spec": spec, "base": "/b", "base_digest": "c" * 64}
    paths = {"out": "o", "events": "e", "error": "x", "inputs": {}}
    await executor.start("evaluate", ExecutorSpec.model_validate(fields | paths), "GPU-2")
    assert workload._child is not None
    assert workload._child.wait(30) == 0
    assert executor.folder.log.read_text() == "sees GPU-2\n"


def test_a_launched_engine_sees_the_gpus_that_it_names() -> None:
    assert vllm_environment(ENGINE)["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    fields = ENGINE.model_dump()
    with pytest.raises(ValueError, match="leave it out of `env`"):
        VllmEngine.model_validate(fields | {"env": {"CUDA_VISIBLE_DEVICES": "0"}})
    with pytest.raises(ValueError, match="`gpus` names 1, and tensor_parallel is 2"):
        VllmEngine.model_validate(fields | {"tensor_parallel": 2})
