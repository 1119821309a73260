"""What an agent costs its host: memory and CPU of the daemon, its router and its sampler, 8 GPUs sampled once a second.

The GPUs are a small C library in the place of NVML's: its calls return at once, so the sampler's CPU here is that of
its own code, and not of a driver. The floor is watched in the same seconds: a program that asks the same router for its
figures each second, and sends them with those of 8 GPUs over a bare WebSocket (`bare_reports.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from tests.bench.bare_reports import GPUS, reads_all
from tests.bench.rows import Row, cpu_s, rss_mb
from tests.compiler import shared_library
from tests.fleets.processes.fleet import fleet_at, lay, make_material

from incident.fleet import NotReady, wait_for

STUB = Path(__file__).parents[1] / "integration" / "telemetry" / "stub.c"
WATCHED_S = 30.0
SETTLED_S = 5.0

CPU = 7.5
"""The most CPU of the daemon, in multiples of the floor's."""


def measure(*, watched_s: float = WATCHED_S) -> list[Row]:
    """About a minute, most of it waiting."""
    with tempfile.TemporaryDirectory(prefix="ld") as folder:
        material = make_material(Path(folder))
        with _nvml(Path(folder)), fleet_at(material.base, names=("gpu-01",)) as fleet:
            lay(fleet, material)
            agent = fleet.nodes[0].process
            assert agent is not None
            wait_for("8 GPUs in the hub", lambda: len(fleet.cli("node", "ls")[0]["gpus"]) == GPUS, 30)
            with _floor(fleet.nodes[0].router_socket) as floor:
                time.sleep(SETTLED_S)  # what the moves left to do is not the daemon's rest
                pids = {
                    "agent daemon": agent.pid,
                    # In a session of its own: a router outlives its agent.
                    "router": _of("router", psutil.process_iter(), str(fleet.nodes[0].state / "router")),
                    "sampler": _of("telemetry.sampler", psutil.Process(agent.pid).children()),
                    "floor": floor.pid,
                }
                before = {name: cpu_s(pid) for name, pid in pids.items()}
                began = time.monotonic()
                time.sleep(watched_s)
                took = time.monotonic() - began
                core = {name: (cpu_s(pid) - before[name]) / took * 100 for name, pid in pids.items()}
                memory = {name: rss_mb(pid) for name, pid in pids.items()}
    n = round(watched_s)
    how = f"one node at rest with an idle embedded engine, watched for {watched_s:.0f} s"
    return [
        Row("agent daemon, 8 GPUs at 1 Hz: resident memory", memory["agent daemon"], "MB", n, 50.0, how=how),
        Row("agent daemon, 8 GPUs at 1 Hz: of a core", core["agent daemon"], "%", n),
        Row("floor: figures asked for and sent each second: of a core", core["floor"], "%", n),
        Row(
            "agent daemon, 8 GPUs at 1 Hz: CPU against that floor",
            core["agent daemon"] / core["floor"],
            "x",
            n,
            CPU,
            how="in the same seconds",
            reference="floor",
        ),
        Row("router at rest: resident memory", memory["router"], "MB", n),
        Row("router at rest: of a core", core["router"], "%", n),
        Row("sampler, stub NVML: resident memory", memory["sampler"], "MB", n),
        Row("sampler, stub NVML: of a core", core["sampler"], "%", n),
    ]


@contextmanager
def _floor(router: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The bare program, reporting what this router's control socket says."""
    with reads_all() as url:
        process = subprocess.Popen([sys.executable, "-m", "tests.bench.bare_reports", str(router), url])
        try:
            yield process
            assert process.poll() is None, "the floor has ended"
        finally:
            process.kill()
            process.wait()


@contextmanager
def _nvml(folder: Path) -> Iterator[None]:
    """Agents that are started meanwhile find the stub where the real library is."""
    library = folder / "nvml"
    library.mkdir()
    words = folder / "words"
    words.write_text("")
    flags = ("-Wl,-soname,libnvidia-ml.so.1", f"-DGPUS={GPUS}")
    shared_library(STUB, library / "libnvidia-ml.so.1", *flags)
    before = dict(os.environ)
    os.environ |= {"LD_LIBRARY_PATH": str(library), "NVML_STUB": str(words)}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _of(module: str, processes: Iterable[psutil.Process], *words: str) -> int:
    """The process that runs a module of the agent, with these words on its command line. Raises: NotReady."""
    for process in processes:
        try:
            line = process.cmdline()
        except psutil.Error:  # it ended between the listing and the question
            continue
        if {f"loradeck_agent.{module}", *words} <= set(line):
            return process.pid
    raise NotReady(f"no process runs loradeck_agent.{module} {' '.join(words)}")
