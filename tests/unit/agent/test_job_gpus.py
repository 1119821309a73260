"""The GPUs that an executor sees."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.fleets.waiting import PATIENCE_S

from loradeck.schemas.executor import ExecutorSpec
from loradeck.schemas.jobs import EvaluateSpec, JobAssignment
from loradeck.schemas.telemetry import Gpu, GpuProcess, NvmlState
from loradeck_agent.host.engine_config import VllmEngine
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import start_time
from loradeck_agent.jobs import backend
from loradeck_agent.jobs import room as rooms
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.executor import Executor
from loradeck_agent.jobs.local_processes import LocalProcesses
from loradeck_agent.jobs.room import Room, own_memory
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


def room(state: NvmlState, *gpus: Gpu, given: tuple[str, ...] = (), at_once: int = 1) -> Room:
    return Room(at_once, cast(Telemetry, Sampled((state, gpus))), (ENGINE,), given)


def executor(folder: Path, job: str = "j1") -> Executor:
    spec = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)
    attempt = Attempt(job=JobAssignment(id=job, lease=1, attempt=1, spec=spec))
    return Executor(LocalProcesses(ExecutorFolder(folder / f"{job}-1"), attempt))


Seen = Callable[..., Awaitable[str | None]]


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    """What an executor sees of these GPUs."""

    async def seen(count: int, state: NvmlState, *gpus: Gpu, given: tuple[str, ...] = ()) -> str | None:
        wanted = (count,) if count else ()
        async with room(state, *gpus, given=given).taken(executor(tmp_path), wanted) as devices:
            return devices

    return seen


async def test_a_job_sees_its_own_gpus_and_neither_an_engines_nor_one_that_a_process_holds(seen: Seen) -> None:
    gpus = gpu(0), gpu(1, os.getpid()), gpu(2), gpu(3, 2**22 + 1)
    assert await seen(1, NvmlState.OK, *gpus) == "GPU-2"
    assert await seen(2, NvmlState.OK, *gpus) == "GPU-2,GPU-3", "that process has ended"
    with pytest.raises(AgentError, match="gpus_taken") as refused:
        await seen(3, NvmlState.OK, *gpus)
    assert "GPU-0: engine e0" in str(refused.value)
    assert f"GPU-1: process {os.getpid()}" in str(refused.value)
    assert await seen(1, NvmlState.OK, *gpus, given=("GPU-0",)) == "GPU-0"


async def test_what_computes_on_the_cpu_sees_none_and_a_node_without_gpus_is_left_alone(seen: Seen) -> None:
    assert await seen(0, NvmlState.OK, gpu(2)) == ""
    assert await seen(1, NvmlState.NO_GPU) is None
    assert await seen(1, NvmlState.FAILED) is None


async def test_where_nobody_can_say_what_is_free_nothing_is_taken(seen: Seen) -> None:
    with pytest.raises(AgentError, match="NVML: hung"):
        await seen(1, NvmlState.HUNG, gpu(2))
    assert await seen(0, NvmlState.HUNG, gpu(2)) == "", "this one needs none"


async def test_the_process_gets_what_was_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ("/bin/sh", "-c", "echo sees $CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(backend, "executor_argv", lambda kind, spec: argv)
    runs = executor(tmp_path)
    runs.folder.write(runs.attempt)
    spec = runs.attempt.job.spec
    fields: dict[str, Any] = {"run": "j1", "attempt": 1, "spec": spec, "base": "/b", "base_digest": "c" * 64}
    paths = {"out": "o", "events": "e", "error": "x", "inputs": {}}
    await runs.start("evaluate", ExecutorSpec.model_validate(fields | paths), "GPU-2")
    child = cast(LocalProcesses, runs.workload)._child
    assert child is not None
    assert child.wait(60) == 0
    assert runs.folder.log.read_text() == "sees GPU-2\n"


async def test_jobs_get_gpus_of_their_own_and_one_that_finds_none_waits_for_a_job_to_end(tmp_path: Path) -> None:
    here = room(NvmlState.OK, gpu(0), gpu(1), gpu(2))
    first, second, third = (executor(tmp_path, job) for job in ("j1", "j2", "j3"))
    ends, seen = asyncio.Event(), asyncio.Queue[str | None]()

    async def runs(job: Executor) -> None:
        async with here.taken(job, (1,)) as devices:
            seen.put_nowait(devices)
            await ends.wait()

    tasks = [asyncio.create_task(runs(job)) for job in (first, second, third)]
    assert [await seen.get(), await seen.get()] == ["GPU-1", "GPU-2"]
    assert (first.attempt.gpus, second.attempt.gpus, third.attempt.gpus) == (("GPU-1",), ("GPU-2",), ())
    found = here.report()
    assert found is not None
    assert found.gpus == ()
    assert found.taken == "GPU-0: engine e0; GPU-1: job j1; GPU-2: job j2"
    assert [(hold.job, hold.gpus) for hold in found.held] == [("j1", ("GPU-1",)), ("j2", ("GPU-2",))]
    ends.set()
    assert await asyncio.wait_for(seen.get(), 60) in ("GPU-1", "GPU-2")
    assert third.folder.read() == third.attempt, "the next agent knows it"
    await asyncio.gather(*tasks)


async def test_a_job_waits_for_memory_that_is_let_go_and_not_for_what_somebody_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a process that has just ended, or of one in a container that this node does not see into."""
    monkeypatch.setattr(rooms, "FREED_S", 0.001)
    held = gpu(1).model_copy(update={"memory_used": 60 << 30, "memory_total": 80 << 30})
    samples = [(NvmlState.OK, (held,))] * 5 + [(NvmlState.OK, (gpu(1),))]
    here = Room(1, cast(Telemetry, Sampled(*samples)), (ENGINE,))
    async with here.taken(executor(tmp_path), (1,)) as devices:
        assert devices == "GPU-1"
    with pytest.raises(AgentError, match=r"gpus_taken.*60\.0 GiB in use by processes that are not seen here"):
        async with asyncio.timeout(PATIENCE_S), room(NvmlState.OK, held).taken(executor(tmp_path, "j2"), (1,)):
            pass


async def test_a_job_that_an_earlier_agent_began_keeps_its_gpus_and_its_place(tmp_path: Path) -> None:
    here = room(NvmlState.OK, gpu(1), gpu(2))
    adopted, small, waiting = (executor(tmp_path, job) for job in ("j1", "j2", "j3"))
    adopted.workload.note(pid=os.getpid(), started=start_time(os.getpid()), gpus=("GPU-1",))
    small.workload.note(pid=os.getpid(), started=start_time(os.getpid()))
    async with here.taken(adopted, (1,)) as devices, here.taken(small, ()):
        assert devices is None, "it was told"
        async with here.taken(executor(tmp_path, "j4"), (1,)) as other:
            assert other == "GPU-2"
        turn = asyncio.create_task(here.taken(waiting, ()).__aenter__())
        assert await asyncio.wait({turn}, timeout=0) == (set(), {turn}), "one at a time is without a GPU"
    assert await asyncio.wait({turn}, timeout=0) == (set(), {turn}), "its process has not ended"
    await here.left(small)
    assert await asyncio.wait_for(turn, 60) == ""


async def test_a_submit_host_starts_so_many_at_once_and_leaves_gpus_to_its_scheduler(tmp_path: Path) -> None:
    here = Room(2)
    first, second, third = (executor(tmp_path, job) for job in ("j1", "j2", "j3"))
    async with here.taken(first, (4,)) as devices, here.taken(second, ()) as others:
        assert (devices, others, here.report()) == (None, None, None)
        turn = asyncio.create_task(here.taken(third, (1,)).__aenter__())
        assert await asyncio.wait({turn}, timeout=0) == (set(), {turn})
    assert await asyncio.wait_for(turn, 60) is None


async def test_a_job_that_an_agent_of_the_version_before_began_keeps_the_gpu_that_it_was_told(tmp_path: Path) -> None:
    here, adopted = room(NvmlState.OK, gpu(1), gpu(2), given=("GPU-1",)), executor(tmp_path)
    told = {"CUDA_VISIBLE_DEVICES": "GPU-1"}
    pipe = subprocess.PIPE
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=pipe, stdout=pipe, env=told)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"up\n")
    assert await process.stdout.readline() == b"up\n"  # before it runs its program it was told nothing
    adopted.workload.note(pid=process.pid, started=start_time(process.pid))
    async with here.taken(adopted, (1,)):
        found = here.report()
        assert found is not None
        assert (found.gpus, [hold.gpus for hold in found.held]) == ((), [("GPU-1",)])
    await process.communicate(b"")


def test_memory_is_counted_of_a_process_and_what_it_has_started() -> None:
    code = "x = bytearray(50_000_000); print('up', flush=True); input()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert 50_000_000 < own_memory(process.pid) < 200_000_000
        process.communicate(b"\n")
    assert own_memory(process.pid) == own_memory(None) == 0


def test_a_launched_engine_sees_the_gpus_that_it_names() -> None:
    assert vllm_environment(ENGINE)["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    fields = ENGINE.model_dump()
    with pytest.raises(ValueError, match="leave it out of `env`"):
        VllmEngine.model_validate(fields | {"env": {"CUDA_VISIBLE_DEVICES": "0"}})
    with pytest.raises(ValueError, match="`gpus` names 1, and tensor_parallel is 2"):
        VllmEngine.model_validate(fields | {"tensor_parallel": 2})
