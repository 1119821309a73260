"""Starting engines under the contract, and calls to them.

The embedded engine is always there; the real vLLM joins where `LORADECK_VLLM_PYTHON` names its environment, as
`make test-vllm` does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests import vllm_server

SLOTS = 4
Load = Callable[..., httpx.Response]
"""`load(name, folder)`."""


def start_embedded(state: Path, base: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "loradeck_agent.embedded.serve", "--state", str(state), "--base", str(base)]
    with log.open("wb") as out:
        return subprocess.Popen([*command, "--slots", str(SLOTS), "--threads", "1"], stdout=out, stderr=out)


def start_vllm(state: Path, base: Path, log: Path) -> subprocess.Popen[bytes]:
    state.mkdir(mode=0o700)
    return vllm_server.start(["--uds", str(state / "engine.sock")], base, log, slots=SLOTS)


START: dict[str, Callable[[Path, Path, Path], subprocess.Popen[bytes]]] = {"embedded": start_embedded}
if vllm_server.PYTHON:
    START["vllm"] = start_vllm

EMBEDDED_ONLY = pytest.mark.parametrize("engine", ["embedded"], indirect=True)
"""What the embedded engine promises beyond the contract."""


@dataclass
class Engine:
    """A running engine and calls to it."""

    kind: str
    socket: Path
    base: Path
    http: httpx.Client

    def client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), limits=httpx.Limits(max_connections=64))
        return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60)

    def names(self) -> list[str]:
        return [m["id"] for m in self.http.get("/v1/models").json()["data"]]

    def chat(self, model: str, text: str, **settings: Any) -> dict[str, Any]:
        reply = self.http.post("/v1/chat/completions", json=chat_body(model, text, **settings))
        assert reply.status_code == 200, reply.text
        return dict(reply.json())


def chat_body(model: str, text: str, **settings: Any) -> dict[str, Any]:
    """A greedy request that asks for token ids and the two likeliest tokens."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 12,
        "logprobs": True,
        "top_logprobs": 2,
        "return_tokens_as_token_ids": True,
        **settings,
    }


def tokens_of(answer: dict[str, Any]) -> list[int]:
    return [int(entry["token"].removeprefix("token_id:")) for entry in answer["choices"][0]["logprobs"]["content"]]


def margins_of(answer: dict[str, Any]) -> list[float]:
    pairs = [entry["top_logprobs"] for entry in answer["choices"][0]["logprobs"]["content"]]
    return [a["logprob"] - b["logprob"] for a, b in pairs]


def wait_for_health(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://engine") as http:
        vllm_server.wait_until_up(http, process, log)
