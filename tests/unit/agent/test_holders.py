"""Which GPUs an engine is on: told by the processes that the driver names, never by what was configured."""

from __future__ import annotations

import os
import subprocess
import sys

from loradeck.schemas.telemetry import Gpu, GpuProcess
from loradeck_agent.serving.engine_lifecycle import seen_on

WORKER = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORKER!r}])"

NOWHERE: dict[str, tuple[object, ...]] = {"gpus": (), "instances": ()}


def gpu(index: int, *pids: int) -> Gpu:
    return Gpu(
        index=index, uuid=f"GPU-{index}", name="a GPU", processes=tuple(GpuProcess(pid=p, memory_bytes=1) for p in pids)
    )


def test_a_gpu_is_an_engines_when_a_process_that_the_engine_started_is_seen_on_it() -> None:
    engine = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with engine:
        assert engine.stdout is not None
        worker = int(engine.stdout.readline())
        cards = [gpu(0, os.getpid()), gpu(1, os.getpid(), worker), gpu(2), gpu(3, engine.pid)]
        assert seen_on(engine.pid, cards) == {"gpus": (1, 3), "instances": ()}
        assert seen_on(None, cards) == NOWHERE
        engine.communicate(b"")
    assert seen_on(engine.pid, [gpu(1, worker)]) == NOWHERE, "what has ended holds nothing"


def test_of_a_divided_gpu_an_engine_is_on_the_instances_in_which_its_processes_are_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, start_new_session=True) as engine:
        seen = [(engine.pid, "0/7/0"), (os.getpid(), "0/9/0"), (engine.pid, "")]
        processes = tuple(GpuProcess(pid=pid, memory_bytes=1, instance=place) for pid, place in seen)
        card = Gpu(index=0, uuid="GPU-0", name="a GPU", mig=True, processes=processes)
        assert seen_on(engine.pid, [card]) == {"gpus": (0,), "instances": ("0/7/0",)}
        engine.communicate(b"")
