"""A router is replaced under callers who open a connection for each request, beside a plain restart of the same router.

`python -m tests.bench.router_upgrade` prints the rows. A third of the answers are streams. What is refused is a
connection; what fails is a request that did not get its whole answer.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import uvloop
from tests.bench.rows import Row, quantile
from tests.fleets.waiting import until
from tests.integration.router.running import KEY, Running, entry, release
from tests.integration.router.upstream import Upstream

from loradeck_agent.host.state_folder import holder_of

ROUNDS = 5
CALLERS = 16
PAUSE_S = 0.1
"""Of a caller between an answer and its next request: with 16 callers more than 50 connections a second."""

AROUND = 40
"""Answers before and after each restart."""


@dataclass
class Seen:
    """What all callers saw."""

    connections: int = 0
    refused: int = 0
    failed: int = 0
    took_ms: list[float] = field(default_factory=list)


def measure(*, rounds: int = ROUNDS) -> list[Row]:
    """Upgrades, then as many plain restarts; about a minute."""
    return uvloop.run(_measure(rounds))


async def _measure(rounds: int) -> list[Row]:
    upgrade, took_s = await _under_callers(rounds, _upgraded, held=True)
    plain, _ = await _under_callers(rounds, _restarted, held=False)
    rate = upgrade.connections / took_s
    how = f"{rounds} upgrades under {rate:.0f} connections a second: the listening socket is handed over"
    return [
        Row(
            "router upgrade: connections refused", upgrade.refused, "refused", upgrade.connections, 0, False, True, how
        ),
        Row("router upgrade: requests failed", upgrade.failed, "failed", upgrade.connections, 0, False, True),
        Row("router upgrade: a request's time, p99", quantile(upgrade.took_ms, 99), "ms", len(upgrade.took_ms)),
        Row("router upgrade: a request's time, longest", max(upgrade.took_ms), "ms", len(upgrade.took_ms)),
        Row(
            "plain restart (SIGTERM, then started again): connections refused",
            plain.refused,
            "refused",
            plain.connections,
            how=f"{rounds} restarts under the same callers",
        ),
        Row("plain restart: requests failed", plain.failed, "failed", plain.connections),
    ]


async def _under_callers(
    rounds: int, restart: Callable[[Running], Awaitable[None]], *, held: bool
) -> tuple[Seen, float]:
    """What callers see over so many restarts, and the seconds that those took."""
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    engine, router, seen = Upstream("e0", str(folder / "e0.sock")), Running(folder), Seen()
    try:
        await engine.start()
        if held:
            router.hold()
        await router.start()
        await router.engines(("e0", engine.socket, [release("v1")]))
        await router.table(entry(release("v1")))
        began = time.monotonic()
        callers = [asyncio.create_task(_call(router, seen, stream=n % 3 == 0)) for n in range(CALLERS)]
        for _ in range(rounds):
            await _answers(seen)
            await restart(router)
            await _answers(seen)
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        return seen, time.monotonic() - began
    finally:
        await router.close()
        await engine.stop()
        shutil.rmtree(folder)


async def _answers(seen: Seen) -> None:
    wanted = len(seen.took_ms) + AROUND
    await until(lambda: len(seen.took_ms) >= wanted, 60)


async def _upgraded(router: Running) -> None:
    old, new = await router.succeed()
    await until(lambda: holder_of(router.state / "router.lock") == new.pid)
    await old.wait()  # it ends the answers that it has begun


async def _restarted(router: Running) -> None:
    await router.terminate()
    await router.start()


async def _call(router: Running, seen: Seen, *, stream: bool) -> None:
    body = {"model": "acme", "messages": [], "stream": stream, "test": {"delay": 0.005}}
    url, headers = f"{router.url}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
    while True:
        seen.connections += 1
        began = time.perf_counter()
        try:
            connector = aiohttp.TCPConnector(force_close=True)
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.post(url, json=body, headers=headers) as answer,
            ):
                raw = await answer.read()
            if answer.status == 200 and (not stream or b"[DONE]" in raw):
                seen.took_ms.append((time.perf_counter() - began) * 1000)
            else:
                seen.failed += 1
        except aiohttp.ClientConnectorError:
            seen.refused += 1
        except (aiohttp.ClientError, OSError):
            seen.failed += 1
        await asyncio.sleep(PAUSE_S)


if __name__ == "__main__":
    for row in measure():
        print(row)
