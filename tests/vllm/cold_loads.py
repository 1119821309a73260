"""Prints how long others wait for their next token while a vLLM gets cold adapters, with our plugin and without it.

    LORADECK_VLLM_PYTHON=.venv-vllm/bin/python python -m tests.vllm.cold_loads [--rounds 3] [--loads 20]

One server, the model of the demo, room for six adapters in memory. Two callers stream; beside them twenty requests ask,
one after another: for adapters that are held, for ones that vLLM reads in the step, and for ones that the plugin loads
first. The ways alternate, so that a machine with other work is slow for each; figures are ratios of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tests import vllm_server
from tests.fakes.word_model import write_adapter
from tests.vllm.attached import keep
from tests.vllm_server import Server, asked

from base_model import FOLDER, default_cache

WAYS = ("held", "in the step", "plugin")
RANK, DEVICE, HOST, STREAMS, ADAPTERS = 16, 4, 6, 2, 22


async def streams(server: Server, name: str, gaps: Callable[[float], None]) -> None:
    """Reads answer after answer, and passes on the seconds between two tokens."""
    async with server.client() as http:
        while True:
            body = asked(name, "Tell a long story.", 200, stream=True, ignore_eos=True)
            async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
                last = None
                async for line in reply.aiter_lines():
                    if line.startswith("data: {"):
                        now = time.perf_counter()
                        if last is not None:
                            gaps(now - last)
                        last = now


async def measure(server: Server, folders: list[Path], rounds: int, loads: int) -> None:
    """Runs all ways in turn and prints what each did to the streams."""
    waits: dict[str, list[float]] = defaultdict(list)
    colds: dict[str, list[float]] = defaultdict(list)
    way = ""
    async with server.client() as http:

        async def load(name: str, folder: Path) -> None:
            body = {"name": name, "path": str(folder)}
            (await http.post("/v1/loradeck/load", json=body)).raise_for_status()

        async def first_token(name: str) -> None:
            (await http.post("/v1/chat/completions", json=asked(name, "Hello.", 1))).raise_for_status()

        for number, folder in enumerate(folders):
            server.load(f"own{number}", folder).raise_for_status()
        for number in range(STREAMS):
            await load(f"stream{number}", folders[number])
        reading = [
            asyncio.create_task(streams(server, f"stream{number}", lambda gap: waits[way].append(gap)))
            for number in range(STREAMS)
        ]
        await asyncio.sleep(2)
        at = 0
        for number in range(rounds):
            for way in WAYS if number % 2 else reversed(WAYS):
                if way == "held":
                    await load("held", folders[STREAMS])
                for _ in range(loads):
                    at = (at + 1) % (ADAPTERS - STREAMS - 1)
                    one = STREAMS + 1 + at
                    began = time.perf_counter()
                    if way == "plugin":
                        await load(f"cold{one}", folders[one])
                    await first_token({"held": "held", "in the step": f"own{one}", "plugin": f"cold{one}"}[way])
                    colds[way].append(time.perf_counter() - began)
                way = ""
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    base = statistics.quantiles(waits["held"], n=100)[98]
    for way in WAYS:
        gaps = sorted(waits[way])
        p99 = statistics.quantiles(gaps, n=100)[98]
        row = {
            "way": way,
            "tokens": len(gaps),
            "p50_ms": round(1000 * statistics.median(gaps), 1),
            "p90_ms": round(1000 * statistics.quantiles(gaps, n=10)[8], 1),
            "p99_ms": round(1000 * p99, 1),
            "most_ms": round(1000 * gaps[-1], 1),
            "p99_of_held": round(p99 / base, 2),
            "first_token_p50_ms": round(1000 * statistics.median(colds[way]), 1),
            "requests": len(colds[way]),
        }
        sys.stdout.write(json.dumps(row) + "\n")


def main() -> None:
    """Reads the command line, writes adapters of random numbers, starts the server and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is taken")
    parser.add_argument("--loads", type=int, default=20, help="requests for cold adapters in each")
    args = parser.parse_args()
    base = default_cache() / FOLDER
    with tempfile.TemporaryDirectory() as root:
        made, releases = Path(root) / "made", Path(root) / "releases"
        folders = [
            keep(write_adapter(made / str(seed), base, seed=seed, rank=RANK), releases) for seed in range(ADAPTERS)
        ]
        settings = {"slots": DEVICE, "cpu_slots": HOST, "rank": RANK, "dtype": "bfloat16"}
        with vllm_server.running(base, **settings, env={"VLLM_PLUGINS": "loradeck"}) as server:
            asyncio.run(measure(server, folders, args.rounds, args.loads))


if __name__ == "__main__":
    main()
