"""`/healthz` of a hub while 1,000 strangers try what they may do without a key, beside a bare server and plain uvicorn.

A stranger goes from one attack to the next: headers that never come or come by drops, headers without an end, bodies of
1 MB that nobody asked for, wrong tokens, handshakes of WebSockets, bytes that are no HTTP. The floor is a bare protocol
that answers this call alone (`bare_healthz.py`), attacked in turns with the hub. The plain server is uvicorn with a
FastAPI app of two calls whose token is a dependency, as the framework's documentation has it. The strangers share the
machine's cores with what they attack and with the client that asks, and come last (`nice`).
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import uvloop
from tests.attacks.raw import get, post
from tests.bench.pairs import ratio_of_medians
from tests.bench.rows import Row, quantile
from tests.fleets.processes.hub import hub_with_a_tenant, peak_memory

from incident.fleet import free_port

STRANGERS = 1000
SECONDS = 20.0
TURNS = 10

AGAINST_FLOOR = 7.0
"""The most that a hub's answer may take at p99, in multiples of a bare server's."""
PATIENCE_S = 10.0
TOKEN = "ld_0123456789abcdef_" + "1" * 64
_WRONG = "authorization: Bearer ld_0123456789abcdef_" + "0" * 64
_BODY = b"[" + b"{}," * 350_000 + b"{}]"

PLAIN = f"""
import sys, uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel
class Body(BaseModel):
    name: str
async def known(request: Request):
    if request.headers.get("authorization") != "Bearer {TOKEN}":
        raise HTTPException(401)
app = FastAPI()
@app.get("/healthz", dependencies=[Depends(known)])
async def healthz():
    return {{"ok": True}}
@app.post("/v1/tokens", dependencies=[Depends(known)])
async def tokens(body: Body):
    return body
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical", access_log=False)
"""


def measure(*, strangers: int = STRANGERS, seconds: float = SECONDS) -> list[Row]:
    """A minute and a half."""
    turns: list[list[float]] = []
    floors: list[list[float]] = []
    with hub_with_a_tenant() as hub, _started("-m", "tests.bench.bare_healthz", token=TOKEN) as (bare, _):
        for _ in range(TURNS):
            turns.append(uvloop.run(_besieged(hub.port, hub.token("viewer"), strangers, seconds / TURNS)))
            floors.append(uvloop.run(_besieged(bare, TOKEN, strangers, seconds / TURNS)))
        took, floor = ([ms for turn in ways for ms in turn] for ways in (turns, floors))
        rows = _rows("hub", took, hub.process.pid)
    rows += [
        Row("floor: a bare server beside 1,000 strangers, p50", quantile(floor, 50), "ms", len(floor)),
        Row("floor: a bare server beside 1,000 strangers, p99", quantile(floor, 99), "ms", len(floor)),
        ratio_of_medians(
            "hub: /healthz beside strangers against that floor, p99",
            [quantile(turn, 99) for turn in turns],
            [quantile(turn, 99) for turn in floors],
            reference="floor",
            budget=AGAINST_FLOOR,
            how=f"of {TURNS} turns each",
        ),
    ]
    with _started("-c", PLAIN) as (port, pid):
        took = uvloop.run(_besieged(port, TOKEN, strangers, seconds))
        rows += _rows("plain uvicorn and FastAPI", took, pid)
    return rows


def _rows(who: str, took: list[float], pid: int) -> list[Row]:
    how = "asked with a token, by turns over a kept connection and over a new one; unanswered for 10 s counts as 10 s"
    what = f"{who}: /healthz beside {STRANGERS:,} strangers"
    return [
        Row(f"{what}, p50", quantile(took, 50), "ms", len(took)),
        Row(f"{what}, p99", quantile(took, 99), "ms", len(took), how=how),
        Row(f"{what}, worst", max(took), "ms", len(took)),
        Row(f"{who}: most memory held", peak_memory(pid) / 2**20, "MB", 1),
    ]


@contextmanager
def _started(*program: str, token: str = "") -> Iterator[tuple[int, int]]:
    """A server of ours, by its port and process."""
    port = free_port()
    process = subprocess.Popen([sys.executable, *program, str(port), *([token] if token else [])])
    try:
        uvloop.run(_until_up(port))
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


async def _until_up(port: int) -> None:
    for _ in range(300):
        if await _asked(port, TOKEN) < PATIENCE_S * 1000:
            return
        await asyncio.sleep(0.05)
    raise TimeoutError("the server did not come up")


# ---- the client ------------------------------------------------------------------------------------------------


async def _besieged(port: int, token: str, strangers: int, seconds: float) -> list[float]:
    """Milliseconds of each answer while the strangers are at work."""
    command = [sys.executable, "-m", "tests.bench.strangers", str(port), str(strangers)]
    attack = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert attack.stdout is not None
        await attack.stdout.readline()  # all of them have begun
        took, ends = [], time.monotonic() + seconds
        async with _connected(port) as (reader, writer):
            while time.monotonic() < ends:
                took.append(await _asked(port, token, reader, writer))
                took.append(await _asked(port, token))
                await asyncio.sleep(0.02)
        return took
    finally:
        assert attack.returncode is None, "the strangers have given up"
        attack.kill()
        await attack.wait()


@asynccontextmanager
async def _connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _asked(
    port: int, token: str, reader: asyncio.StreamReader | None = None, writer: asyncio.StreamWriter | None = None
) -> float:
    began = time.perf_counter()
    with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_S):
            if reader is None or writer is None:
                async with _connected(port) as (reader, writer):
                    await _answered(reader, writer, token)
            else:
                await _answered(reader, writer, token)
            return (time.perf_counter() - began) * 1000
    return PATIENCE_S * 1000


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
    writer.write(get("/healthz", f"authorization: Bearer {token}"))
    head = await reader.readuntil(b'"ok":true}')
    assert head.startswith(b"HTTP/1.1 200"), head


# ---- the strangers ---------------------------------------------------------------------------------------------


async def _stranger(port: int, chosen: random.Random, begun: asyncio.Semaphore) -> None:
    attacks = (_never, _drops, _endless, _body, _wrong, _websocket, _noise)
    first = True
    while True:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(20), _connected(port) as (reader, writer):
                if first:
                    first = False
                    begun.release()
                await chosen.choice(attacks)(reader, writer)
        await asyncio.sleep(chosen.uniform(0.1, 0.5))


async def _never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /v1/state HTTP/1.1\r\nhost: hub\r\n")
    await reader.read()


async def _drops(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in get("/v1/state", "x: " + "y" * 400):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET / HTTP/1.1\r\nx: " + b"y" * 300_000)
    await reader.read()


async def _body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(post("/v1/tokens", body=_BODY))
    await reader.read()


async def _wrong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(5):
        writer.write(get("/v1/state", _WRONG))
        await reader.readuntil(b"}")


async def _websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    upgrade = ("connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13")
    writer.write(get("/v1/link", *upgrade, "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", _WRONG) + b"\x81\xff" * 5000)
    await reader.read()


async def _noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(random.randbytes(5000))
    await reader.read()


async def _attack(port: int, many: int) -> None:
    begun = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        for number in range(many):
            group.create_task(_stranger(port, random.Random(number), begun))
        for _ in range(many):
            await begun.acquire()
        print("all of them have begun", flush=True)


if __name__ == "__main__":
    os.nice(10)
    with suppress(KeyboardInterrupt):
        uvloop.run(_attack(int(sys.argv[1]), int(sys.argv[2])))
