"""What the router adds to a request: the same client asks the engine alone, through the router, and through its peers.

The engine and the client are bare protocols that do next to nothing, so that the difference is the proxy's; the route
has its default checks, so every answer is judged as well. The peers do the same proxying before the same engine: bare
aiohttp (`bare_proxy.py`), HAProxy where there is one, and the LiteLLM proxy. All are asked in turns. Throughput is
given per second of a proxy's own CPU time, because its core is shared with the client, the engine and the checker here.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop
from tests.bench.http_load import Where, load, spawn_engine
from tests.bench.in_turns import CALLERS, TURNS, Budgets, Way, ask_in_turns, compared, notes
from tests.bench.pairs import ratio_of_medians
from tests.bench.proxies import Engine, Proxy, bare, haproxy, litellm, running
from tests.bench.rows import Row, quantile
from tests.integration.router.running import Running, entry, release

from incident.fleet import free_port
from loradeck.schemas.content_checks import ContentChecks
from loradeck.schemas.table import CandidateRef, ReleaseRef

ONE_N = 4000
SIXTEEN_N = 24_000
FLIPS_N = 400

AGAINST_BARE = Budgets(added=2.7, p99=3.7, of_cpu=0.46)
OF_LITELLM = 20.0
ALL_ON = 1.5


@dataclass(frozen=True)
class Rounds:
    """How many requests of each kind, and moves."""

    one: int
    sixteen: int
    flips: int


def measure(*, share: float = 1.0) -> list[Row]:
    """Runs engine, router and peers on loopback; about 90 s on two free cores. `share`: of the rounds."""
    counts = (ONE_N, SIXTEEN_N, FLIPS_N)
    return uvloop.run(_measure(Rounds(*(max(320, int(count * share)) for count in counts))))


async def _measure(rounds: Rounds) -> list[Row]:
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    socket = str(folder / "e0.sock")
    engine, port = await spawn_engine(socket)
    router = Running(folder)
    try:
        async with asyncio.timeout(600):
            v1, v2 = release("v1"), release("v2")
            await _serving(router, socket, v1, v2)
            rows = await _overhead(router, folder, Engine(socket, port), rounds)
            rows += await _flips(router, rounds)
            await router.engines(("e0", socket, [v1, v2]))
            return rows + await _all_on(router, folder, socket, v1, v2, rounds)
    finally:
        await router.close()
        engine.kill()
        await engine.wait()
        shutil.rmtree(folder)


async def _serving(router: Running, socket: str, v1: ReleaseRef, v2: ReleaseRef) -> None:
    await router.start()
    await router.post("/control/hub", {"connected": True})
    await router.engines(("e0", socket, [v1, v2]))
    await router.table(entry(v1))


def _proxy(router: Running, name: str) -> Proxy:
    assert router.process is not None
    return Proxy(name, Where(("127.0.0.1", router.port)), router.process.pid)


# ---- beside its peers ----------------------------------------------------------------------------------------------


async def _overhead(router: Running, folder: Path, engine: Engine, rounds: Rounds) -> list[Row]:
    ports = [free_port() for _ in range(3)]
    starts = [bare(ports[0], engine), haproxy(folder, ports[1], engine)]
    starts.append(await asyncio.to_thread(litellm, folder, ports[2], engine))
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(running(start, port, folder))
            for start, port in zip(starts, ports, strict=True)
            if start is not None
        ]
        proxies = [_proxy(router, "router"), *peers]
        direct, (ours, *theirs) = await ask_in_turns(Where(engine.socket), proxies, rounds.one, rounds.sixteen)
    rows = [*_alone(direct), *_of_the_router(ours, direct)]
    for way in theirs:
        if way.name.startswith("LiteLLM"):
            rows += _of_litellm(way, ours, direct)
        else:
            rows += notes(f"peer: {way.name}", way, direct, "to the engine alone, in turns with the router")
            budgets = AGAINST_BARE if way is theirs[0] else Budgets()
            rows += compared("router", ours, way, direct, "peer", budgets)
    return rows


def _alone(direct: Way) -> list[Row]:
    return [
        Row("1 connection, engine alone, p50", quantile(direct.one, 50), "ms", len(direct.one)),
        Row("1 connection, engine alone, p99", quantile(direct.one, 99), "ms", len(direct.one)),
        Row(f"{CALLERS} connections, engine alone", len(direct.many) / direct.many_s, "requests/s", len(direct.many)),
    ]


def _of_the_router(ours: Way, direct: Way) -> list[Row]:
    how = "through the router less the engine alone, the same client in turns, with the default checks on"
    return [
        *notes("router", ours, direct, how),
        Row(f"{CALLERS} connections, through the router", len(ours.many) / ours.many_s, "requests/s", len(ours.many)),
        Row(f"{CALLERS} connections, through the router, p99", quantile(ours.many, 99), "ms", len(ours.many)),
    ]


def _of_litellm(way: Way, ours: Way, direct: Way) -> list[Row]:
    name = f"peer: {way.name}"
    return [
        Row(
            f"{name}, added: p50",
            statistics.median(way.added(direct)),
            "ms",
            len(way.one),
            how="the same client and engine, in turns with the router; one worker, no key, no database",
        ),
        Row(f"{name}, {CALLERS} connections", len(way.many) / way.many_s, "requests/s", len(way.many)),
        Row(f"{name}, {CALLERS} connections, p99", quantile(way.many, 99), "ms", len(way.many)),
        ratio_of_medians(
            "router against the LiteLLM proxy: added to a request, times less, p50",
            way.added(direct),
            ours.added(direct),
            reference="peer",
            budget=OF_LITELLM,
            higher=True,
        ),
    ]


# ---- with all that it does beside serving --------------------------------------------------------------------------


async def _all_on(
    plain: Running, folder: Path, socket: str, v1: ReleaseRef, v2: ReleaseRef, rounds: Rounds
) -> list[Row]:
    """The overhead of a router with every check, the ledger and a candidate either way, beside that of one without."""
    content = ContentChecks(
        tool_calls=True, repetition=True, personal_data=True, canaries=("a string of the rows",), languages=("en",)
    )
    (folder / "all").mkdir()
    router, rows = Running(folder / "all"), []
    try:
        await _serving(router, socket, v1, v2)
        for generation, (what, permille, shadow) in enumerate(
            (("half of the callers", 500, False), ("a shadow of all", 1000, True)), 2
        ):
            split = {"generation": generation, "salt": "a-salt-of-16-chr", "permille": permille, "shadow": shadow}
            await router.table(entry(v1, generation, candidate=CandidateRef(release=v2, **split), content=content))
            proxies = [_proxy(router, "all"), _proxy(plain, "plain")]
            direct, (everything, without) = await ask_in_turns(Where(socket), proxies, rounds.one, 0, apart=True)
            asked = sum(row["again"]["pairs"] for row in await router.stats() if row.get("again"))
            assert bool(asked) is shadow, f"{asked} pairs were counted"
            named = f"with every check, the ledger and a candidate, {what}"
            how = "as above, each request with a prompt of its own" + (f"; {asked} pairs" if shadow else "")
            added, bare_added = everything.added(direct), without.added(direct)
            rows += [
                Row(f"router, added {named}: p50", statistics.median(added), "ms", len(everything.one), how=how),
                ratio_of_medians(
                    f"router, added {named} against without these: p50",
                    added,
                    bare_added,
                    reference="floor",
                    budget=ALL_ON,
                    how=f"medians of {TURNS} turns of two routers; without: the default checks",
                ),
            ]
    finally:
        await router.close()
    return rows


# ---- moves ---------------------------------------------------------------------------------------------------------


async def _flips(router: Running, rounds: Rounds) -> list[Row]:
    """Directive to acknowledgement on the control socket, at rest and under 16 connections."""
    busy_with = asyncio.create_task(load(Where(("127.0.0.1", router.port)), CALLERS, rounds.sixteen * 4))
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
