"""What it gains to load a release before a request waits for it: at a gateway's hint, and at an on-demand route's move.

A gateway before one node with the embedded engine, idle but for what is asked here, one request after the other, of
tenants whose release is on the node's disk alone and has answered its canaries before. Each request comes in two
pieces, head and body, as from a caller who is far away or sends much: at once, or with the body later. The gateway
tells the node of the head. In turns with these, and counted from the body's last byte, so that a wait for the body is
in none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
from tests.bench.density_material import CANARY, Material
from tests.bench.rows import Row

from incident.fleet import BIN, Fleet, free_port
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.testing.simulated_fleet import ROUTE

PAIRS, MOVES = 20, 10
"""Requests of each kind, and moves of each kind."""

LATER_S = 0.5
"""So much later than its head a body comes, and a request than its tenant's move."""

PATIENCE_S = 120.0


class Fronted(Fleet):
    """A node that gateways alone may ask."""

    def write_configs(self) -> None:
        super().write_configs()
        for node in self.nodes:
            authority = json.dumps(str(node.state / "identity" / "authority.pem"))
            more = f'tls = true\naddress = "127.0.0.1:{node.port}"\nclient_ca = {authority}\n'
            node.config.write_text(node.config.read_text().replace("tls = true\n", more))


@contextmanager
def _gateway(fleet: Fleet) -> Iterator[str]:
    """A gateway before the fleet's nodes, and its URL."""
    port, token, config = free_port(), fleet.root / "gw.join", fleet.root / "gateway.toml"
    fleet.cli("node", "token", "gw", "--gateway", "--host", "127.0.0.1", "--out", str(token))
    config.write_text(
        f'node = "gw"\nhub = "https://127.0.0.1:{fleet.hub_port}"\ntoken = {json.dumps(str(token))}\n'
        f'state = {json.dumps(str(fleet.root / "gw"))}\n[router]\nlisten = "127.0.0.1:{port}"\n'
    )
    command = [str(BIN / "loradeck-agent"), "gateway", "--config", str(config)]
    with (fleet.root / "gw.log").open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def _ask(session: aiohttp.ClientSession, material: Material, number: int, later_s: float = 0.0) -> float:
    """Seconds from the last byte of the request's body to its answer of one token. Raises RuntimeError if refused."""
    sent = [0.0]

    async def body() -> AsyncIterator[bytes]:
        if later_s:
            yield b" "  # the client sends the head with the first piece
        await asyncio.sleep(later_s)
        sent[0] = time.perf_counter()
        asked = {"model": material.tenants[number], "messages": list(CANARY), "temperature": 0, "max_tokens": 1}
        yield json.dumps(asked).encode()

    headers = {"authorization": f"Bearer {material.key(number)}", "content-type": "application/json"}
    async with session.post("/v1/chat/completions", data=body(), headers=headers) as reply:
        text = await reply.text()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status} {text[:200]}")
    return time.perf_counter() - sent[0]


def _cold(fleet: Fleet, material: Material, numbers: Sequence[int], version: int = 2) -> list[int]:
    """Those of some tenants whose release the engine does not hold."""
    held = {view["id"] for view in _node(fleet)["replicas"][0]["loaded"]}
    return [number for number in numbers if material.release(number, version).id not in held]


async def measure(fleet: Fleet, material: Material) -> list[Row]:
    """The rows. `fleet`: a `Fronted` one that serves the material's tenants; some minutes for a thousand."""
    pairs, moves = min(PAIRS, len(material.tenants) // 8), min(MOVES, len(material.fresh) // 4)
    tail = [number for number in range(len(material.tenants)) if number not in set(material.fresh)][-2 * pairs :]
    moved = material.fresh[-2 * moves :]
    others = [number for number in range(len(material.tenants)) if number not in {*tail, *moved}][: material.host]
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    with _gateway(fleet) as url:
        async with aiohttp.ClientSession(url, timeout=timeout) as session:
            for number in (*tail, *others):  # the first ones answer their canaries, the others turn them out
                await _answers(session, material, number)
            await asyncio.sleep(2)  # the node's next report
            cold, before = _cold(fleet, material, tail), _hinted(fleet)
            waits: dict[float, list[float]] = {0.0: [], LATER_S: []}
            for turn, number in enumerate(cold):
                later_s = LATER_S if turn % 2 else 0.0
                waits[later_s].append(await _ask(session, material, number, later_s))
            await asyncio.sleep(2)
            told = _hinted(fleet) - before
            after: dict[float, list[float]] = {0.0: [], LATER_S: []}
            async with HubApi.to(Context(name="bench", socket=fleet.socket)) as api:
                for turn, number in enumerate(_cold(fleet, material, moved, version=1)):
                    later_s = LATER_S if turn % 2 else 0.0
                    row = await api.row(material.tenants[number], ROUTE)
                    request = rollback_request(row.preview, key=new_key(), reason="bench", confirmed=True)
                    await api.send(material.tenants[number], ROUTE, request, wait="flipped", timeout=30)
                    await asyncio.sleep(later_s)
                    after[later_s].append(await _ask(session, material, number))
    return [
        *_compared("TTFT of a cold release, body", waits, f"the node counted {told} hints; idle, embedded engine"),
        *_compared("TTFT after R to a cold prior, asked", after, "its first answer there, with its canaries"),
    ]


def _compared(what: str, waits: dict[float, list[float]], how: str) -> list[Row]:
    """Medians of what was asked at once and later, and their ratio; nothing where either was not measured."""
    if not all(waits.values()):
        return [Row(f"{what}: nothing was cold", 0, "requests", 0)]
    at_once, later = (statistics.median(waits[kind]) for kind in (0.0, LATER_S))
    return [
        Row(f"{what} at once: p50", 1000 * at_once, "ms", len(waits[0.0]), how=how),
        Row(f"{what} {LATER_S * 1000:.0f} ms later: p50", 1000 * later, "ms", len(waits[LATER_S])),
        Row(f"{what} later, over at once", later / at_once, "x", len(waits[LATER_S]), reference="peer"),
    ]


def _hinted(fleet: Fleet) -> int:
    found: int = (_node(fleet).get("cold") or {}).get("hinted", 0)
    return found


def _node(fleet: Fleet) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in fleet.ask("nodes") if row["node"] == "gpu-01")
    return found


async def _answers(session: aiohttp.ClientSession, material: Material, number: int) -> None:
    """Until a request of this tenant is answered, and the gateway is there."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(RuntimeError, aiohttp.ClientError):
            await _ask(session, material, number)
            return
        assert time.monotonic() < deadline, "the gateway does not answer"
        await asyncio.sleep(0.5)
