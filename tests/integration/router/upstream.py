"""A real, tiny engine for the router's tests: an aiohttp server on a Unix socket that answers with its own words.

The answer's text names the engine and the model that was asked for, so that a test decides who answered by the
answer and not by a header. What else a test needs is asked for in the request itself: `{"test": {...}}`.

    delay       seconds before the answer, or between the events of a stream
    events      events of a stream
    answer      the text, instead of the engine's own
    finish      the finish reason
    status      an HTTP status, with no answer, from every model but the base
    hostile     an HTTP status, with no answer, from every model
    error       events of a stream after which it ends with an error, from every model
    die_after   events after which the connection is dropped
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web


class Upstream:
    """One engine. `seen`: bodies in the order they came; `dropped`: requests whose caller went away."""

    def __init__(self, name: str, socket: str) -> None:
        self.name = name
        self.socket = socket
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.dropped = 0
        self.unloaded: set[str] = set()
        self.ill: int | None = None
        """The status that every request is answered with."""
        self.waiting: int | None = 0
        """Requests that wait in it, by its metrics; None: they do not say."""
        self.going = asyncio.Event()
        """Cleared, it takes requests and answers none."""
        self.going.set()
        self.read = asyncio.Semaphore(0)
        """Released for each part of a stream that its reader has; where a request says "paced", the next one waits."""
        self.says: str | None = None
        """What it answers where a request does not say what it is to be; None: the engine's own words."""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=8 * 2**20)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/metrics/", self._metrics)
        app.router.add_post("/v1/load_lora_adapter", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, self.socket).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _metrics(self, request: web.Request) -> web.Response:
        if self.waiting is None:
            return web.Response(status=404)
        return web.Response(text=f'vllm:num_requests_waiting{{engine="0",model_name="base"}} {self.waiting}.0\n')

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.headers.append(dict(request.headers))
        wish = body.get("test", {})
        try:
            await self.going.wait()
            if body["model"] in self.unloaded:
                return web.json_response({"error": {"message": "no such model"}}, status=404)
            status = wish.get("hostile") or (wish.get("status") if body["model"] != "base" else None)
            status = self.ill or (500 if "error" in wish and not body.get("stream") else status)
            if status is not None:
                await asyncio.sleep(wish.get("delay", 0))
                return web.json_response({"error": {"message": "asked for"}}, status=status)
            text = wish.get("answer", self.says or f"{self.name}:{body['model']}")
            if body.get("stream"):
                return await self._stream(request, wish, text)
            await asyncio.sleep(wish.get("delay", 0))
            return web.json_response(
                {
                    "id": "x",
                    "model": body["model"],
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": text},
                            "finish_reason": wish.get("finish", "stop"),
                        }
                    ],
                }
            )
        except asyncio.CancelledError:
            self.dropped += 1
            raise

    async def _stream(self, request: web.Request, wish: dict[str, Any], text: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        events = wish.get("events", 4)
        step = -(-len(text) // events)
        for number in range(events):
            if number == wish.get("error"):
                await response.write(_event({"error": {"message": "asked for"}}))
                return response
            if number == wish.get("die_after"):
                assert request.transport is not None
                request.transport.abort()
                return response
            delta = {"content": text[number * step : (number + 1) * step]}
            await response.write(_event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
            await asyncio.sleep(wish.get("delay", 0))
            if wish.get("paced"):
                await self.read.acquire()
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": wish.get("finish", "stop")}]}
        await response.write(_event(last) + b"data: [DONE]\n\n")
        return response


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"
