"""What a gateway adds to a request, beside the proxies that people put before engines; and a node that dies under load.

A gateway before two real routers, over mutual TLS: the same client asks one router alone, over mutual TLS as well, and
the gateway, in turns. Beside it the same proxying by bare aiohttp (`bare_proxy.py`) and HAProxy: to the same router,
over mutual TLS with the gateway's certificate, in the same turns. Envoy and vllm-router stand between the same client
and a bare engine, without TLS, keys or tenants. Requests a core are by the CPU time of the process, because client,
engines and routers share its cores here.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import uvloop
from tests.bench.http_load import Where, spawn_engine
from tests.bench.in_turns import CALLERS, Budgets, ask_in_turns, compared, notes
from tests.bench.proxies import Engine, Proxy, Start, bare, envoy, haproxy, running, vllm_router
from tests.bench.rows import Row, quantile
from tests.fleets.linked import hub as linked_hub
from tests.fleets.linked.serving_node import RunningGateway, ServingNode

from incident.fleet import free_port
from loradeck.schemas.replica_state import LOST_S
from loradeck_agent.host.identity import HubLogin, Identity

ONE_N, SIXTEEN_N = 4000, 24_000
ROUNDS = 3
TENANTS = ("acme", "bolt", "cove", "dune")
BEFORE_S, AFTER_S = 1.0, 3.0

AGAINST_BARE = Budgets(added=2.0, of_cpu=0.74)
ELSEWHERE = 2.5
"""The most silences of a lost node until its tenants are answered elsewhere."""


def measure(*, share: float = 1.0, rounds: int = ROUNDS) -> list[Row]:
    """About three minutes on two free cores, after installing the peers. `share`: of the requests."""
    return uvloop.run(_measure(max(320, int(ONE_N * share)), max(1600, int(SIXTEEN_N * share)), rounds))


async def _measure(one: int, sixteen: int, rounds: int) -> list[Row]:
    async with _fleet() as fleet:
        rows = await _added(fleet, one, sixteen) + await _killed(fleet, rounds)
    return rows + await _without_tls(one, sixteen)


# ---- the fleet ---------------------------------------------------------------------------------------------------


class _Node(ServingNode):
    """A node whose router and engine are processes of their own. The engine answers everything with the same bytes."""

    async def serve(self) -> None:
        self.engine_process, _ = await spawn_engine(self.engine.socket)
        await self.again()

    async def again(self) -> None:
        """Its router is started, perhaps once more, on its table."""
        identity = self.identity
        await self.router.spawn(more=("--tls-cert", str(identity.certificate), "--client-ca", str(identity.authority)))
        await self.router.until_up()

    async def close(self) -> None:
        await super().close()
        self.engine_process.kill()
        await self.engine_process.wait()


@dataclass(frozen=True)
class _Fleet:
    """Two nodes and a gateway. `keys`: of a caller of each tenant; `identity`, `tls`: what the gateway shows nodes."""

    folder: Path
    nodes: list[_Node]
    gateway: Proxy
    port: int
    keys: dict[str, str]
    identity: Identity
    tls: ssl.SSLContext


@asynccontextmanager
async def _fleet() -> AsyncIterator[_Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    async with linked_hub.data_folder() as data, linked_hub.running(data, nodes=True) as deck:
        nodes, keys = [_Node(deck, folder, name) for name in ("n1", "n2")], dict[str, str]()
        gateway = RunningGateway(deck, folder, "gw")
        try:
            for tenant in TENANTS:
                await deck.tenant(tenant)
                keys[tenant] = (await deck.ok("POST", f"tenants/{tenant}/keys"))["key"]
            for node in nodes:
                await node.start()
            for seed, tenant in enumerate(TENANTS):
                await deck.promote(await deck.release(tenant, seed), tenant)
            await gateway.join()
            config = folder / "gateway.toml"
            config.write_text(
                f'node = "gw"\nhub = "{gateway.config.hub}"\ntoken = "{gateway.config.token}"\n'
                f'state = "{gateway.config.state}"\n[router]\nlisten = "127.0.0.1:{gateway.port}"\n'
            )
            command = [sys.executable, "-m", "loradeck_agent.gateway", "--config", str(config)]
            tls = HubLogin(gateway.config).now().tls
            assert tls is not None
            async with running(Start("gateway", command), gateway.port, folder, keys["acme"]) as proxy:
                yield _Fleet(folder, nodes, proxy, gateway.port, keys, gateway.member.identity, tls)
        finally:
            await gateway.close()
            for node in nodes:
                await node.close()
            shutil.rmtree(folder)


# ---- beside other proxies over mutual TLS --------------------------------------------------------------------------


async def _added(fleet: _Fleet, one: int, sixteen: int) -> list[Row]:
    node, key, identity = fleet.nodes[0], fleet.keys["acme"], fleet.identity
    upstream = Engine(node.engine.socket, node.router.port, identity.certificate, identity.authority)
    ports = [free_port(), free_port()]
    starts = [bare(ports[0], upstream), haproxy(fleet.folder, ports[1], upstream)]
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(running(start, port, fleet.folder, key))
            for start, port in zip(starts, ports, strict=True)
            if start is not None
        ]
        alone = Where(("127.0.0.1", node.router.port), key, fleet.tls)
        direct, (ours, *theirs) = await ask_in_turns(alone, [fleet.gateway, *peers], one, sixteen)
    how = "through the gateway less the router of a node alone, the same client in turns"
    rows = [
        Row(
            "1 connection, a node's router alone, p50",
            quantile(direct.one, 50),
            "ms",
            len(direct.one),
            how="mutual TLS",
        ),
        *notes("gateway", ours, direct, how),
        Row(f"{CALLERS} connections, through the gateway", len(ours.many) / ours.many_s, "requests/s", len(ours.many)),
    ]
    for way in theirs:
        rows += notes(f"peer: {way.name}", way, direct, "to the same router over mutual TLS, in turns with the gateway")
        rows += compared("gateway", ours, way, direct, "peer", AGAINST_BARE if way is theirs[0] else Budgets())
    return rows


# ---- a node that is killed -----------------------------------------------------------------------------------------


async def _killed(fleet: _Fleet, rounds: int) -> list[Row]:
    """Under callers of all tenants, a node's router is killed and its link is gone; then it comes back."""
    asked, failed, elsewhere = 0, 0, list[float]()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for number in range(rounds):
            dies, stays = fleet.nodes[number % 2], fleet.nodes[1 - number % 2]
            answers: list[tuple[float, str, str | None]] = []
            over = asyncio.Event()
            callers = [asyncio.create_task(_call(fleet, session, n, answers, over)) for n in range(CALLERS)]
            await asyncio.sleep(BEFORE_S)
            assert dies.name in {replica for _, _, replica in answers}, "it answered nobody before"
            killed = time.monotonic()
            await dies.stop()
            await dies.router.kill()
            await asyncio.sleep(AFTER_S)
            over.set()
            await asyncio.gather(*callers)
            asked += len(answers)
            failed += sum(replica is None for _, _, replica in answers)
            after = [(began, tenant) for began, tenant, replica in answers if began > killed and replica == stays.name]
            elsewhere.append(max(min(b for b, t in after if t == tenant) for tenant in TENANTS) - killed)
            await dies.again()
            await dies.relink()
    how = "its router is killed (SIGKILL) and its link ends, under 16 callers of all tenants without a pause"
    return [
        Row("a node is killed: requests that failed", failed, "requests", asked, 0, how=how),
        Row("a node is killed: until its tenants answer elsewhere, worst", max(elsewhere), "s", rounds),
        Row(
            "a node is killed: until its tenants answer elsewhere, worst, against its setting",
            max(elsewhere) / LOST_S,
            "x",
            rounds,
            ELSEWHERE,
            how=f"silence after which a node counts as lost: {LOST_S:g} s",
            reference="setting",
        ),
    ]


async def _call(
    fleet: _Fleet,
    session: aiohttp.ClientSession,
    number: int,
    answers: list[tuple[float, str, str | None]],
    over: asyncio.Event,
) -> None:
    """Asks one request after the other; of each when it began, its tenant, and who answered it: None: nobody did."""
    turn = 0
    while not over.is_set():
        turn, tenant = turn + 1, TENANTS[(number + turn) % len(TENANTS)]
        body = {"model": tenant, "messages": [{"role": "user", "content": f"{number} {turn}"}]}
        headers, began = {"Authorization": f"Bearer {fleet.keys[tenant]}"}, time.monotonic()
        try:
            url = f"http://127.0.0.1:{fleet.port}/v1/chat/completions"
            async with session.post(url, json=body, headers=headers) as answer:
                await answer.read()
                answers.append((began, tenant, answer.headers["x-loradeck-replica"] if answer.status == 200 else None))
        except aiohttp.ClientError:
            answers.append((began, tenant, None))


# ---- other proxies without TLS -------------------------------------------------------------------------------------


async def _without_tls(one: int, sixteen: int) -> list[Row]:
    """Envoy and vllm-router before a bare engine."""
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    socket = str(folder / "e.sock")
    process, upstream = await spawn_engine(socket)
    ports = [free_port(), free_port()]
    try:
        async with AsyncExitStack() as stack:
            engine = Engine(socket, upstream)
            starts = [
                await asyncio.to_thread(envoy, folder, ports[0], engine),
                await asyncio.to_thread(vllm_router, ports[1], engine),
            ]
            proxies = [
                await stack.enter_async_context(running(start, port, folder))
                for start, port in zip(starts, ports, strict=True)
            ]
            direct, ways = await ask_in_turns(Where(("127.0.0.1", upstream)), proxies, one, sixteen)
    finally:
        process.kill()
        await process.wait()
        shutil.rmtree(folder)
    return [row for way in ways for row in notes(f"peer: {way.name}", way, direct, "to the bare engine, without TLS")]


if __name__ == "__main__":
    for row in measure():
        print(row)
