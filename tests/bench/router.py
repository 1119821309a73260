"""What the router adds to a request: the same client against the engine alone and through the router, in one run.

`measure()` returns rows; run as a program it prints them. The engine and the client are bare protocols that do
next to nothing, so that the difference is the router's; the route has its default checks, so every answer is
judged as well. Throughput is also given per second of the router's own CPU time, because its core is shared with
the client, the engine and the checker here.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop
from tests.bench.peers import install, start, stop, until_up
from tests.bench.rows import Row, cpu_s, quantile
from tests.integration.router.running import KEY, Running, entry, release

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


def _body(prompt: str) -> bytes:
    return json.dumps({"model": "acme", "messages": [{"role": "user", "content": prompt}]}).encode()


_BODY = _body("Where is my refund?")
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "acme",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "{}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
    }
).encode()


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


# ---- the engine: answers every request with the same bytes ----------------------------------------------------


class _Engine(asyncio.Protocol):
    _metrics = b"vllm:num_requests_waiting 0\n"
    _waiting = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(_metrics) + _metrics
    _reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_ANSWER) + _ANSWER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            _, found, rest = self._buffer[:end].lower().partition(b"content-length:")
            length = int(rest.split(b"\r\n", 1)[0]) if found else 0  # the peer also asks without a body
            if len(self._buffer) < end + 4 + length:
                return
            asked = self._buffer.startswith(b"GET /metrics")
            self._buffer = self._buffer[end + 4 + length :]
            self._transport.write(self._waiting if asked else self._reply)


async def _serve_engine(path: str) -> None:
    """On a Unix socket for the router, and on a loopback port, which it prints, for the peer."""
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(_Engine, path)
    tcp = await loop.create_server(_Engine, "127.0.0.1", 0)
    print(tcp.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# ---- the client: one request after the other on each connection -----------------------------------------------


_PROMPTS = map("Where is my {0[0]}{0[1]}{0[2]}{0[3]}?".format, itertools.product("abcdefghijklmnopqrst", repeat=4))
"""Prompts that are not folded into one, as those that differ in numbers are."""


class _Client(asyncio.Protocol):
    def __init__(
        self, request: Callable[[], bytes], left: Callable[[], bool], latencies: list[float], done: Callable[[], None]
    ):
        self._request = request
        self._left = left
        self._latencies = latencies
        self._done = done
        self._buffer = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        self._send()

    def _send(self) -> None:
        if not self._left():
            self._transport.close()
            self._done()
            return
        self._sent = time.perf_counter()
        self._transport.write(self._request())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.index(b"content-length:") + 15
        if len(self._buffer) < end + 4 + int(head[at:].split(b"\r\n", 1)[0]):
            return
        assert head.startswith(b"http/1.1 200"), self._buffer
        self._latencies.append(time.perf_counter() - self._sent)
        self._buffer = b""
        self._send()


def _request(body: bytes = _BODY) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def _load(
    where: str | tuple[str, int], connections: int, n: int, *, apart: bool = False
) -> tuple[list[float], float]:
    """n requests over so many connections: latencies in milliseconds, and seconds in all.

    Args:
        apart: each has a prompt of its own, so that none is a repetition of another.
    """
    same = _request()
    request = (lambda: _request(_body(next(_PROMPTS)))) if apart else (lambda: same)
    remaining, open_, finished = n, connections, asyncio.Event()
    latencies: list[float] = []

    def left() -> bool:
        nonlocal remaining
        remaining -= 1
        return remaining >= 0

    def done() -> None:
        nonlocal open_
        open_ -= 1
        if not open_:
            finished.set()

    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(connections):
        if isinstance(where, str):
            await loop.create_unix_connection(lambda: _Client(request, left, latencies, done), where)
        else:
            await loop.create_connection(lambda: _Client(request, left, latencies, done), *where)
    await finished.wait()
    return [seconds * 1000 for seconds in latencies], time.perf_counter() - started


# ---- the run ---------------------------------------------------------------------------------------------------


async def _measure(rounds: Rounds) -> list[Row]:
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    socket = str(folder / "e0.sock")
    command = [sys.executable, "-m", "tests.bench.router", "engine", socket]
    engine = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert engine.stdout is not None
    router = Running(folder)
    try:
        async with asyncio.timeout(300):
            await router.start()
            port = int(await engine.stdout.readline())
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


async def _in_turns(
    socket: str, through: tuple[str, int], n: int, *, apart: bool = False
) -> tuple[list[float], list[float]]:
    """Latencies of the engine alone and through the router, in turns: a neighbour's burst of work meets both."""
    direct: list[float] = []
    routed: list[float] = []
    for _ in range(4):
        direct += (await _load(socket, 1, n // 4, apart=apart))[0]
        routed += (await _load(through, 1, n // 4, apart=apart))[0]
    return direct, routed


async def _overhead(router: Running, socket: str, rounds: Rounds) -> tuple[list[Row], float]:
    """The rows, and what the router adds at the median, in milliseconds."""
    assert router.process is not None
    through = ("127.0.0.1", router.port)
    for where in (socket, through):
        await _load(where, 1, WARM_N)
    direct, routed = await _in_turns(socket, through, rounds.one)
    direct16, direct16_s = await _load(socket, 16, rounds.sixteen)
    cpu = cpu_s(router.process.pid)
    routed16, routed16_s = await _load(through, 16, rounds.sixteen)
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
    through = ("127.0.0.1", router.port)
    rows = []
    for what, permille, shadow in (("half of the callers", 500, False), ("a shadow of all", 1000, True)):
        generation = 1_000_000 + len(rows)  # after those of the flips
        split = {"generation": generation, "salt": "a-salt-of-16-chr", "permille": permille, "shadow": shadow}
        await router.table(entry(v1, generation, candidate=CandidateRef(release=v2, **split), content=content))
        await _load(through, 1, WARM_N, apart=True)
        direct, routed = await _in_turns(socket, through, rounds.one, apart=True)
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
        there, engine = ("127.0.0.1", port), ("127.0.0.1", upstream)
        for where in (there, engine):
            await _load(where, 1, PEER_WARM_N)
        direct, _ = await _load(engine, 1, rounds.peer_one)
        one, _ = await _load(there, 1, rounds.peer_one)
        sixteen, sixteen_s = await _load(there, 16, rounds.peer_sixteen)
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
    load = asyncio.create_task(_load(("127.0.0.1", router.port), 16, rounds.sixteen * 4))
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
            latencies, _ = await load
            rows.append(Row("requests meanwhile, p99", quantile(latencies, 99), "ms", len(latencies)))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["engine"]:
        uvloop.run(_serve_engine(sys.argv[2]))
    else:
        for row in measure():
            print(row)
