"""A judge behind an address: its key stays with the agent, and an executor asks it by chats alone."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pydantic import ValidationError

from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.executor import EngineDoor
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import ExecutorFailure
from loradeck_agent.host.engine_config import JudgeAddress
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.serving.engine_api import EngineAddress, EngineApi
from loradeck_agent.serving.engine_questions import EngineAnswer, EngineQuestion
from loradeck_agent.serving.engine_relay import address_relay

BUILD = EngineBuild(engine="address house", device="elsewhere", dtype="unknown")
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "?"}], "temperature": 0, "model": "another"}


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[tuple[str, str, dict[str, Any]]]]]:
    """An address, and what was asked there: path, key and body."""
    asked: list[tuple[str, str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append((self.path, self.headers["authorization"], body))
            said = json.dumps({"model": "house-4", "choices": [{"message": {"content": "PASS"}}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


async def test_an_executor_asks_with_a_key_that_it_does_not_see(
    elsewhere: tuple[str, list[tuple[str, str, dict[str, Any]]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url, asked = elsewhere
    key = tmp_path / "judge.key"
    key.write_text("sk-secret\n")
    key.chmod(0o600)
    at = JudgeAddress(name="house", url=url, model="house", key=key)
    api, socket = EngineApi(EngineAddress(url=at.url), at.read_key()), Path("ask.sock")
    door = EngineDoor(replica=at.model, socket=str(socket), build=BUILD, scores=False)

    def ask(question: EngineQuestion) -> EngineAnswer:
        ((_, answer),) = Served(door, 1).each([question], lambda: None)
        return answer

    async with address_relay(api, at.model, socket, None):
        assert stat.S_IMODE(os.stat("ask.sock").st_mode) == 0o600
        answer = await asyncio.to_thread(ask, EngineQuestion(body=CHAT))
        with pytest.raises(ExecutorFailure, match="nothing that may be asked"):
            await asyncio.to_thread(ask, EngineQuestion(prompt=(1,), max_tokens=1))
    api.close()
    assert answer.body == {"model": "house-4", "choices": [{"message": {"content": "PASS"}}]}
    assert asked == [("/v1/chat/completions", "Bearer sk-secret", {**CHAT, "model": "house", "stream": False})]


def test_a_key_that_others_may_read_and_an_address_in_the_clear_are_refused(tmp_path: Path) -> None:
    key = tmp_path / "judge.key"
    key.write_text("sk-secret\n")
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="may be read by others"):
        JudgeAddress(name="house", url="https://judge.example.com", model="m", key=key).read_key()
    with pytest.raises(ValidationError, match="in the clear"):
        JudgeAddress(name="house", url="http://judge.example.com", model="m")
