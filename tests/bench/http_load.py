"""An engine and a client that do next to nothing, so that what lies between them is what is measured."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import uvloop
from tests.integration.router.running import KEY


@dataclass(frozen=True)
class Where:
    """What is asked: a Unix socket's path or an address, over TLS if settings are given, with a caller's key."""

    at: str | tuple[str, int]
    key: str = KEY
    tls: ssl.SSLContext | None = None


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


async def spawn_engine(path: str) -> tuple[asyncio.subprocess.Process, int]:
    """The engine in a process of its own, on a Unix socket for routers and on a loopback port for peers: both."""
    command = [sys.executable, "-m", __name__, path]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    return process, int(await process.stdout.readline())


async def _serve(path: str) -> None:
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


def _request(key: str, body: bytes = _BODY) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def load(where: Where, connections: int, n: int, *, apart: bool = False) -> tuple[list[float], float]:
    """n requests over so many connections: latencies in milliseconds, and seconds in all.

    Args:
        apart: each has a prompt of its own, so that none is a repetition of another.
    """
    same = _request(where.key)
    request = (lambda: _request(where.key, _body(next(_PROMPTS)))) if apart else (lambda: same)
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
        if isinstance(where.at, str):
            await loop.create_unix_connection(lambda: _Client(request, left, latencies, done), where.at)
        else:
            await loop.create_connection(lambda: _Client(request, left, latencies, done), *where.at, ssl=where.tls)
    await finished.wait()
    return [seconds * 1000 for seconds in latencies], time.perf_counter() - started


async def in_turns(direct: Where, through: Where, n: int, *, apart: bool = False) -> tuple[list[float], list[float]]:
    """Latencies over one connection of what is asked directly and through what is measured, in turns: a neighbour's
    burst of work meets both.
    """
    alone: list[float] = []
    routed: list[float] = []
    for _ in range(4):
        alone += (await load(direct, 1, n // 4, apart=apart))[0]
        routed += (await load(through, 1, n // 4, apart=apart))[0]
    return alone, routed


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
