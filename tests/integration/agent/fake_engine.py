"""A small engine behind the engine contract, without a model: what it answers depends on the files it loaded.

The tokens of an answer are taken from a digest of (weights that are loaded, prompt), so that a wrong file, the
bare base and the right adapter answer differently, and the same bytes answer the same in every process.

Files in its state folder change its behaviour: `bare_base` makes it answer with the base whatever is asked for,
`unhealthy` makes it start and never become ready, and with `hung` it answers no prompt and makes no step, while all
else is answered. The named pipe `held_models` keeps whoever asks what is loaded
waiting until somebody writes to it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import secrets
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from loradeck.schemas.attestation import EngineBuild
from loradeck_agent.host.state_folder import locked

BUILD = EngineBuild(engine="fake 1", device="cpu", dtype="float32")


def base_digest(folder: Path) -> str:
    """As `loradeck.schemas.manifest.BaseManifest` takes it."""
    from loradeck.schemas.ids import digest_of

    files = [
        {
            "path": str(path.relative_to(folder)),
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return digest_of({"files": files})


def digest_of_weights(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def tokens_of(weights: str, prompt: str, n: int) -> list[int]:
    """The answer of these weights to a prompt."""
    digest = hashlib.sha256(f"{weights}|{prompt}".encode()).digest()
    return [int.from_bytes(digest[2 * i : 2 * i + 2], "big") for i in range(n)]


class FakeEngine:
    def __init__(self, state: Path, base: Path, slots: int) -> None:
        self.state = state
        self.slots = slots
        self.boot = secrets.token_hex(8)
        self.base = base_digest(base)
        self.adapters: dict[str, tuple[str, str]] = {}
        self.steps = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/version", self.version),
                web.get("/metrics/", self.metrics),
                web.get("/v1/models", self.models),
                web.post("/v1/load_lora_adapter", self.load),
                web.post("/v1/unload_lora_adapter", self.unload),
                web.post("/tokenize", self.tokenize),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completion),
            ]
        )
        return app

    def note(self, what: str) -> None:
        """One line for each call that changes something or answers somebody, for tests that check an order."""
        with suppress(OSError), (self.state / "calls.log").open("a") as file:  # its disk may be full or read-only
            file.write(what + "\n")

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response(
            {"tokens": [len(m["content"]) for m in body["messages"]] + [len(body.get("tools", []))]}
        )

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if (self.state / "unhealthy").exists() else 200)

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "boot": self.boot,
                "build": BUILD.model_dump(),
                "base": self.base,
                "base_name": "base",
                "slots": self.slots,
            }
        )

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=f"vllm:generation_tokens_total {self.steps}\n")

    async def step(self) -> None:
        """One step of the model, which never comes while the engine hangs."""
        while (self.state / "hung").exists():  # noqa: ASYNC110 - a test says when it goes on, by a file
            await asyncio.sleep(0.05)
        self.steps += 1

    async def models(self, _: web.Request) -> web.Response:
        held = self.state / "held_models"
        if held.exists():
            self.note("models held")
            await asyncio.to_thread(held.read_bytes)
        rows: list[dict[str, Any]] = [{"id": "base", "root": "base", "parent": None}]
        rows += [{"id": name, "root": root, "parent": "base"} for name, (root, _) in self.adapters.items()]
        return web.json_response({"data": rows})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, root = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters or len(self.adapters) >= self.slots:
            return web.Response(status=400, text="duplicate, or no slot")
        try:
            weights = await asyncio.to_thread(digest_of_weights, root)
        except FileNotFoundError:
            return web.Response(status=404, text="no such path")
        self.adapters[name] = (str(root), weights)
        self.note(f"load {name}")
        return web.Response(text="loaded")

    async def unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        self.note(f"unload {name}")
        return web.Response(status=200 if self.adapters.pop(name, None) else 404)

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        model = body["model"]
        if model != "base" and model not in self.adapters:
            return web.Response(status=404, text=f"the model {model!r} does not exist")
        weights = self.base if model == "base" else self.adapters[model][1]
        if (self.state / "bare_base").exists():
            weights = self.base
        prompt = body["messages"][-1]["content"]
        self.note(f"chat {model} {prompt}")
        if prompt.startswith("slow"):
            await asyncio.sleep(float(prompt.split()[1]))
        await self.step()
        tokens = tokens_of(weights, prompt, body.get("max_tokens") or 8)
        content = [
            {
                "token": f"token_id:{token}",
                "logprob": -0.1,
                "top_logprobs": [
                    {"token": f"token_id:{token}", "logprob": -0.1},
                    {"token": "token_id:1", "logprob": -3.0},
                ],
            }
            for token in tokens
        ]
        message = {"role": "assistant", "content": " ".join(map(str, tokens))}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": content}}
        return web.json_response({"object": "chat.completion", "model": model, "choices": [choice]})

    async def completion(self, request: web.Request) -> web.Response:
        body = await request.json()
        model = body["model"]
        if model != "base" and model not in self.adapters:
            return web.Response(status=404, text=f"the model {model!r} does not exist")
        self.note(f"complete {model}")
        await self.step()
        weights = self.base if model == "base" else self.adapters[model][1]
        tokens = tokens_of(weights, str(body["prompt"]), body["max_tokens"])
        choice = {"index": 0, "text": " ".join(map(str, tokens)), "finish_reason": "length"}
        if "prompt_logprobs" in body:  # as vLLM says them: of the likeliest tokens, and of the prompt's own
            said = [{str(n): {"logprob": -float(n)} for n in range(1, body["prompt_logprobs"] + 2)}] * 2
            choice["prompt_logprobs"] = [None, *said]
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": len(tokens)}})


async def _serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(FakeEngine(args.state, args.base, args.slots).app(), shutdown_timeout=1.0)
    await runner.setup()
    socket = args.state / "engine.sock"
    socket.unlink(missing_ok=True)
    await web.UnixSite(runner, str(socket)).start()
    await stop.wait()
    await runner.cleanup()
    socket.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--batch-slots", type=int)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.umask(0o077)
    args.state.mkdir(parents=True, exist_ok=True)
    (args.state / "starts.log").open("a").write(json.dumps({"pid": os.getpid()}) + "\n")
    with locked(args.state / "engine.lock", "engine"):
        asyncio.run(_serve(args))


if __name__ == "__main__":
    main()
