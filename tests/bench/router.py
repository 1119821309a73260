"""What the router adds to a request: the same client against the engine alone and through the router, in one run.

`measure()` returns rows; run as a program it prints them. The engine and the client are bare protocols that do
next to nothing, so that the difference is the router's; the route has its default checks, so every answer is
judged as well. Throughput is also given per second of the router's own CPU time, because its core is shared with
the client, the engine and the checker here.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop
from tests.bench.http_load import Where, in_turns, load, spawn_engine
from tests.bench.peers import install, start, stop, until_up
from tests.bench.rows import Row, cpu_s, quantile
from tests.integration.router.running import Running, entry, release

from incident.fleet import free_port
from loradeck.schemas.content_checks import ContentChecks
from loradeck.schemas.table import CandidateRef, ReleaseRef

ONE_N = 4000
SIXTEEN_N = 24_000
WARM_N = 500
FLIPS_N = 400
PEER_WARM_N = 50
PEER_ONE_N = 400
PEER_SIXTEEN_N = 1600


@dataclass(frozen=True)
class Rounds:
    """How many requests of each kind."""

    one: int
    sixteen: int
    flips: int
    peer_one: int
    peer_sixteen: int


def measure(*, share: float = 1.0) -> list[Row]:
    """Runs engine and router on loopback, then the peer; about 60 s on two free cores. `share`: of the rounds."""
    counts = (ONE_N, SIXTEEN_N, FLIPS_N, PEER_ONE_N, PEER_SIXTEEN_N)
    return uvloop.run(_measure(Rounds(*(max(16, int(count * share)) for count in counts))))


# ---- the run ---------------------------------------------------------------------------------------------------


async def _measure(rounds: Rounds) -> list[Row]:
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    socket = str(folder / "e0.sock")
    engine, port = await spawn_engine(socket)
    router = Running(folder)
    try:
        async with asyncio.timeout(300):
            await router.start()
            v1, v2 = release("v1"), release("v2")
            await router.post("/control/hub", {"connected": True})
            await router.engines(("e0", socket, [v1, v2]))
            await router.table(entry(v1))
            rows, added = await _overhead(router, socket, rounds)
            rows += await _peer(folder, port, added, rounds) + await _flips(router, rounds)
            await router.engines(("e0", socket, [v1, v2]))
            return rows + await _all_on(router, socket, v1, v2, rounds)
    finally:
        await router.close()
        engine.kill()
        await engine.wait()
        shutil.rmtree(folder)


async def _overhead(router: Running, socket: str, rounds: Rounds) -> tuple[list[Row], float]:
    """The rows, and what the router adds at the median, in milliseconds."""
    assert router.process is not None
    alone, through = Where(socket), Where(("127.0.0.1", router.port))
    for where in (alone, through):
        await load(where, 1, WARM_N)
    direct, routed = await in_turns(alone, through, rounds.one)
    direct16, direct16_s = await load(alone, 16, rounds.sixteen)
    cpu = cpu_s(router.process.pid)
    routed16, routed16_s = await load(through, 16, rounds.sixteen)
    cpu = cpu_s(router.process.pid) - cpu
    d50, d99, r50, r99 = quantile(direct, 50), quantile(direct, 99), quantile(routed, 50), quantile(routed, 99)
    return [
        Row("1 connection, engine alone, p50", d50, "ms", len(direct)),
        Row("1 connection, engine alone, p99", d99, "ms", len(direct)),
        Row("1 connection, through the router, p50", r50, "ms", len(routed)),
        Row("1 connection, through the router, p99", r99, "ms", len(routed)),
        Row(
            "router overhead, p50",
            r50 - d50,
            "ms",
            len(routed),
            0.5,
            how="through the router less the engine alone, the same client in turns, with the default checks on",
        ),
        Row("router overhead, p99", r99 - d99, "ms", len(routed), 2.0),
        Row("16 connections, engine alone", rounds.sixteen / direct16_s, "requests/s", len(direct16)),
        Row("16 connections, through the router", rounds.sixteen / routed16_s, "requests/s", len(routed16)),
        Row("16 connections, through the router, p99", quantile(routed16, 99), "ms", len(routed16)),
        Row(
            "router, requests per second of its CPU",
            rounds.sixteen / cpu,
            "requests/s",
            len(routed16),
            4000,
            higher=True,
            how="by the CPU time of its process, because client, engine and checker share its core here",
        ),
    ], r50 - d50


async def _all_on(router: Running, socket: str, v1: ReleaseRef, v2: ReleaseRef, rounds: Rounds) -> list[Row]:
    """The router's overhead with all that it does beside serving: checks, the ledger, and a candidate either way."""
    content = ContentChecks(
        tool_calls=True, repetition=True, personal_data=True, canaries=("a string of the rows",), languages=("en",)
    )
    through = Where(("127.0.0.1", router.port))
    rows = []
    for what, permille, shadow in (("half of the callers", 500, False), ("a shadow of all", 1000, True)):
        generation = 1_000_000 + len(rows)  # after those of the flips
        split = {"generation": generation, "salt": "a-salt-of-16-chr", "permille": permille, "shadow": shadow}
        await router.table(entry(v1, generation, candidate=CandidateRef(release=v2, **split), content=content))
        await load(through, 1, WARM_N, apart=True)
        direct, routed = await in_turns(Where(socket), through, rounds.one, apart=True)
        asked = sum(row["again"]["pairs"] for row in await router.stats() if row.get("again"))
        assert bool(asked) is shadow, f"{asked} pairs were counted"
        rows.append(
            Row(
                f"router overhead with every check, the ledger and a candidate, {what}: p50",
                quantile(routed, 50) - quantile(direct, 50),
                "ms",
                len(routed),
                0.5,
                how="as above, each request with a prompt of its own" + (f"; {asked} pairs" if shadow else ""),
            )
        )
    return rows


async def _peer(folder: Path, upstream: int, added: float, rounds: Rounds) -> list[Row]:
    """The LiteLLM proxy between the same client and engine. `added`: what the router adds, ms at the median."""
    peer = await asyncio.to_thread(install, "litellm")
    config = folder / "litellm.yaml"
    model = {"model": "openai/acme", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "acme", "litellm_params": model}]}))  # JSON is YAML
    port, log = free_port(), folder / "litellm.log"
    command = [peer.bin("litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False"]
    env = {
        **os.environ,
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PATH": f"{peer.folder / 'bin'}:{os.environ.get('PATH', '')}",
    }
    process = start(command, log, env)
    try:
        await asyncio.to_thread(until_up, f"http://127.0.0.1:{port}/health/liveliness", process, log)
        there, engine = Where(("127.0.0.1", port)), Where(("127.0.0.1", upstream))
        for where in (there, engine):
            await load(where, 1, PEER_WARM_N)
        direct, _ = await load(engine, 1, rounds.peer_one)
        one, _ = await load(there, 1, rounds.peer_one)
        sixteen, sixteen_s = await load(there, 16, rounds.peer_sixteen)
    finally:
        stop(process)
    peer_added, name = quantile(one, 50) - quantile(direct, 50), f"peer: LiteLLM proxy {peer.version}"
    return [
        Row(
            f"{name}, overhead, p50",
            peer_added,
            "ms",
            len(one),
            how="the same client and engine; one worker, no key, no database",
        ),
        Row(f"{name}, 16 connections", rounds.peer_sixteen / sixteen_s, "requests/s", len(sixteen)),
        Row(f"{name}, 16 connections, p99", quantile(sixteen, 99), "ms", len(sixteen)),
        Row("router overhead against LiteLLM's: times less, p50", peer_added / added, "x", len(one), 20.0, higher=True),
    ]


async def _flips(router: Running, rounds: Rounds) -> list[Row]:
    """Directive to acknowledgement on the control socket, at rest and under 16 connections."""
    busy_with = asyncio.create_task(load(Where(("127.0.0.1", router.port)), 16, rounds.sixteen * 4))
    rows: list[Row] = []
    v1, v2 = release("v1"), release("v2")
    generation = 1
    for busy in (True, False):
        times: list[float] = []
        for _ in range(rounds.flips // 2):
            generation += 1
            started = time.perf_counter()
            acks = await router.table(entry(v2 if generation % 2 == 0 else v1, generation))
            times.append((time.perf_counter() - started) * 1000)
            assert [ack["state"] for ack in acks] == ["flipped"]
            await asyncio.sleep(0.005)
        what = "16 connections" if busy else "at rest"
        how = "on the router's control socket: append, fdatasync, swap, answer" if busy else ""
        rows.append(Row(f"directive to acknowledgement, {what}, p50", quantile(times, 50), "ms", len(times), how=how))
        rows.append(Row(f"directive to acknowledgement, {what}, p99", quantile(times, 99), "ms", len(times)))
        if busy:
            latencies, _ = await busy_with
            rows.append(Row("requests meanwhile, p99", quantile(latencies, 99), "ms", len(latencies)))
    return rows


if __name__ == "__main__":
    for row in measure():
        print(row)
