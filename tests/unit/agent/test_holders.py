"""Which GPUs an engine is on: told by the processes that the driver names, never by what was configured."""

from __future__ import annotations

import os
import subprocess
import sys

from loradeck.schemas.telemetry import Gpu, GpuProcess
from loradeck_agent.serving.engine_lifecycle import gpus_of

WORKER = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORKER!r}])"


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
        assert gpus_of(engine.pid, cards) == (1, 3)
        assert gpus_of(None, cards) == ()
        engine.communicate(b"")
    assert gpus_of(engine.pid, [gpu(1, worker)]) == (), "what has ended holds nothing"
