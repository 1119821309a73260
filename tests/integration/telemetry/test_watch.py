"""The daemon's side: what it says of a sampler that works, hangs, dies, or is asked to let go."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.integration.telemetry.conftest import Stub

from loradeck.schemas.telemetry import NvmlState
from loradeck_agent.telemetry.sampler_watch import HostReader, Patience, Telemetry

Sampler = Callable[..., list[str]]
CALM = Patience(period=0.02, start=60, line=60, grace=60, steady=600, restart=0.05, leave=60)
QUICK = Patience(period=0.02, start=60, line=2, grace=0.3, steady=600, restart=0.05, leave=5)
"""For samplers that hang: those that do not have two seconds for a line, however much else the machine does."""


@asynccontextmanager
async def watching(command: list[str], patience: Patience = CALM) -> AsyncIterator[Telemetry]:
    telemetry = Telemetry(command, patience)
    task = asyncio.create_task(telemetry.run())
    try:
        yield telemetry
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.01)


def pids() -> list[int]:
    """Samplers that are children of this process and still run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == os.getpid() and b"loradeck_agent.telemetry.sampler" in words:
            found.append(int(entry.name))
    return found


async def test_it_says_starting_and_then_what_the_sampler_says(sampler: Sampler) -> None:
    async with watching(sampler()) as telemetry:
        assert telemetry.current() == (NvmlState.STARTING, ())
        await until(lambda: telemetry.current()[0] is NvmlState.OK)
        state, gpus = telemetry.current()
        assert [gpu.utilisation for gpu in gpus] == [40, 41]
        await until(lambda: telemetry.snapshot().host is not None)
        seen = telemetry.snapshot()
        assert (seen.nvml, seen.gpus) == (state, gpus)
    await until(lambda: pids() == [])


async def test_a_node_without_the_library_says_no_gpu_and_still_knows_its_host(sampler: Sampler) -> None:
    async with watching(sampler(present=False)) as telemetry:
        await until(lambda: telemetry.current() == (NvmlState.NO_GPU, ()))
        await until(lambda: telemetry.snapshot().host is not None)


async def test_a_hung_sampler_is_said_to_be_hung_without_figures_and_replaced_when_it_is_gone(
    sampler: Sampler, stub: Stub
) -> None:
    async with watching(sampler(), QUICK) as telemetry:
        await until(lambda: telemetry.current()[0] is NvmlState.OK)
        (stuck,) = pids()
        stub.says("hang")
        await until(lambda: telemetry.current()[0] is NvmlState.HUNG)
        assert [(gpu.uuid, gpu.utilisation) for gpu in telemetry.current()[1]] == [
            ("GPU-stub-0", None),
            ("GPU-stub-1", None),
        ]
        stub.says("")
        await until(lambda: telemetry.current()[0] is NvmlState.OK)
        assert telemetry.started == 2
        assert stuck not in pids()
        assert len(pids()) == 1


async def test_two_samplers_never_run_and_one_that_hangs_again_is_not_replaced(sampler: Sampler, stub: Stub) -> None:
    seen: list[int] = []
    patience = Patience(period=0.02, start=8, line=2, grace=0.2, steady=600, restart=0.05, leave=5)
    async with watching(sampler(), patience) as telemetry:
        await until(lambda: telemetry.current()[0] is NvmlState.OK)
        stub.says("hang")

        def settled() -> bool:
            seen.append(len(pids()))
            return telemetry.started == 2 and seen[-1] == 0

        await until(settled)
        await asyncio.sleep(10 * patience.restart)  # long enough for a third, if there were to be one
        assert (telemetry.started, pids()) == (2, [])
        assert max(seen) == 1
        assert telemetry.current()[0] is NvmlState.HUNG
        stub.says("")
        telemetry.resume()
        await until(lambda: telemetry.current()[0] is NvmlState.OK)


async def test_a_hung_sampler_has_its_grace_before_it_is_killed(sampler: Sampler, stub: Stub) -> None:
    patience = Patience(period=0.02, start=60, line=2, grace=600, restart=0.05, leave=0.1)
    async with watching(sampler(), patience) as telemetry:
        await until(lambda: telemetry.current()[0] is NvmlState.OK)
        (stuck,) = pids()
        stub.says("slow")
        await until(lambda: telemetry.current()[0] is NvmlState.HUNG)
        assert pids() == [stuck]  # asked to leave, and not killed
        stub.says("")  # the call returns: it leaves by itself, and its replacement takes over
        await until(lambda: telemetry.current()[0] is NvmlState.OK)
        assert telemetry.started == 2


async def test_a_gpu_that_went_with_its_sampler_is_still_missed_by_the_next(sampler: Sampler, stub: Stub) -> None:
    async with watching(sampler()) as telemetry:
        await until(lambda: telemetry.current()[0] is NvmlState.OK)
        stub.says("gone")
        os.kill(pids()[0], 9)
        await until(lambda: telemetry.started == 2 and telemetry.current()[0] is NvmlState.LOST)
        assert [gpu.utilisation for gpu in telemetry.current()[1]] == [40, None]


async def test_a_sampler_that_cannot_be_started_at_all_is_failed_and_not_the_daemons_end(stub: Stub) -> None:
    async with watching([sys.executable, "-c", "raise SystemExit(3)"]) as telemetry:
        await until(lambda: telemetry.started > 2)
        assert telemetry.current() == (NvmlState.FAILED, ())


async def test_garbage_on_its_output_changes_nothing(sampler: Sampler) -> None:
    noisy = ["/bin/sh", "-c", 'echo "{not json"; echo "{}"; exec "$@"', "sh", *sampler()]
    async with watching(noisy) as telemetry:
        await until(lambda: telemetry.current()[0] is NvmlState.OK)
        assert telemetry.started == 1


async def test_quiesce_lets_go_of_the_driver_until_resume(sampler: Sampler) -> None:
    async with watching(sampler()) as telemetry:
        await until(lambda: telemetry.current()[0] is NvmlState.OK)
        assert await telemetry.quiesce()
        assert pids() == []
        await asyncio.sleep(5 * CALM.restart)
        assert (pids(), telemetry.started) == ([], 1)
        assert [gpu.utilisation for gpu in telemetry.current()[1]] == [None, None]
        telemetry.resume()
        await until(lambda: telemetry.current()[0] is NvmlState.OK)


async def test_quiesce_says_so_when_the_driver_does_not_let_go(sampler: Sampler, stub: Stub) -> None:
    patience = Patience(period=0.02, start=60, line=600, grace=0.2, restart=0.05, leave=0.1)
    async with watching(sampler(), patience) as telemetry:
        await until(lambda: telemetry.current()[0] is NvmlState.OK)
        stub.says("slow")
        await until(stub.holds_a_caller)
        stuck = pids()
        assert not await telemetry.quiesce()
        assert pids() == stuck
        stub.says("")
        await until(lambda: pids() == [])
        assert telemetry.started == 1


async def test_the_hosts_figures_are_none_until_they_mean_something() -> None:
    reader = HostReader()
    assert reader.read() is None
    await until(lambda: reader.read() is not None)
    host = reader.read()
    assert host is not None
    assert 0 <= host.cpu_percent <= 100
    assert 0 < host.memory_used < host.memory_total
    assert reader.read() is host  # asked twice within a second: the same reading


def test_the_daemons_side_imports_neither_nvml_nor_torch() -> None:
    code = (
        "import sys, loradeck_agent.telemetry.sampler_watch, loradeck_agent.telemetry.sampler_watch\n"
        "print(sorted({'pynvml', 'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
