"""The small engine in vLLM's shape: its flags, its `/version`, `/metrics`, key, and a core process beside the server.

    vllm_shaped.py [-m MODULE] --model DIR --served-model-name NAME (--uds PATH | --host H --port P) ...

As vLLM does, it loads adapters at run time only with VLLM_ALLOW_RUNTIME_LORA_UPDATING, leaves its socket behind,
and will not bind over one. Each start writes `launch.json` into the working folder, each request's key and
path into `asked.log`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.integration.agent.fake_engine import FakeEngine


class VllmShaped(FakeEngine):
    def __init__(self, state: Path, args: argparse.Namespace) -> None:
        super().__init__(state, Path(args.model), 10_000)  # its cache is larger than its slots and evicts by itself
        self.args = args
        self.started = time.time()
        self.root = args.root or args.model
        self.answered = False
        self.cache: dict[str, None] = {}
        """Resident adapters, least recently used first. Unloading does not take one out, as in vLLM."""

    async def load(self, request: web.Request) -> web.Response:
        reply = await super().load(request)
        if reply.status == 200:
            self._use((await request.json())["lora_name"])
        return reply

    async def chat(self, request: web.Request) -> web.Response:
        reply = await super().chat(request)
        if reply.status == 200:
            self.answered = True
            self._use((await request.json())["model"])
        return reply

    def _use(self, name: str) -> None:
        if name == self.args.served_model_name:
            return
        if name not in self.cache and len(self.cache) >= self.args.max_loras:
            oldest = next(iter(self.cache))
            self.note(f"evict {'listed' if oldest in self.adapters else 'unloaded'} {oldest}")
            del self.cache[oldest]
        self.cache.pop(name, None)
        self.cache[name] = None

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._key])
        routes = [
            web.get("/health", self.health),
            web.get("/version", self.vllm_version),
            web.get("/metrics/", self.metrics),
            web.get("/v1/models", self.models),
            web.post("/v1/chat/completions", self.chat),
        ]
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "True" and self.args.enable_lora:
            routes += [
                web.post("/v1/load_lora_adapter", self.load),
                web.post("/v1/unload_lora_adapter", self.unload),
            ]
        app.add_routes(routes)
        return app

    @web.middleware
    async def _key(self, request: web.Request, handler: Any) -> web.StreamResponse:
        with (self.state / "asked.log").open("a") as file:
            file.write(f"{request.headers.get('Authorization', '-')} {request.path}\n")
        guarded = self.args.api_key and request.path.startswith("/v1")
        if guarded and request.headers.get("Authorization") != f"Bearer {self.args.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        try:
            response: web.StreamResponse = await handler(request)
        except web.HTTPNotFound:
            return web.json_response({"detail": "Not Found"}, status=404)
        return response

    async def vllm_version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def metrics(self, _: web.Request) -> web.Response:
        lines = [f"process_start_time_seconds {self.started}", "# HELP vllm:lora_requests_info Running stats."]
        if self.answered:
            lines.append(
                f'vllm:lora_requests_info{{max_lora="{self.args.max_loras}",running_lora_adapters=""}} 1.7e+09'
            )
        return web.Response(text="\n".join(lines) + "\n")

    async def models(self, request: web.Request) -> web.Response:
        document = json.loads((await super().models(request)).text or "")
        for row in document["data"]:
            if row["parent"] is None:
                row |= {"id": self.args.served_model_name, "root": str(self.root)}
        return web.json_response(document)


def bound(path: str) -> socket.socket:
    """A socket that, unlike aiohttp's own, takes no other's place."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    return sock


async def _serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(VllmShaped(Path.cwd(), args).app(), shutdown_timeout=1.0)
    await runner.setup()
    site = web.SockSite(runner, bound(args.uds)) if args.uds else web.TCPSite(runner, args.host, args.port)
    await site.start()
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", dest="module")
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-model-name", default="base")
    parser.add_argument("--root", help="what /v1/models says it serves, where that is not --model")
    parser.add_argument("--uds")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--api-key")
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--max-loras", type=int, default=4)
    args, rest = parser.parse_known_args()
    core = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])  # as the engine core: lives on
    launch = {"pid": os.getpid(), "core": core.pid, "argv": sys.argv[1:], "rest": rest, "env": dict(os.environ)}
    Path("launch.json").write_text(json.dumps(launch))
    try:
        asyncio.run(_serve(args))
    finally:
        core.kill()
        core.wait()


if __name__ == "__main__":
    main()
