"""Prompts that the embedded engine must not take, and prompts that take long: nobody else waits for either."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from tests.fakes import held_bodies

from loradeck.schemas.attestation import EngineBuild
from loradeck_agent.embedded.batch import Output, Sequence, TokenOut
from loradeck_agent.embedded.server import EngineServer, LoadedModel
from loradeck_agent.host import body_reader
from loradeck_agent.host.body_reader import BodyReader

CONTEXT = 1024
LONG = "word " * 5000
"""25,000 characters: they may fit the context by their number."""


class Tokenizer:
    """A tokenizer of words, none longer than 64 characters, that works on `LONG` until `go_on` is set."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.reading, self.go_on = threading.Event(), threading.Event()

    def __len__(self) -> int:
        return 2

    def get_vocab(self) -> dict[str, int]:
        return {"word": 0, "x" * 64: 1}

    def apply_chat_template(self, messages: list[dict[str, str]], *, tokenize: bool = True, **_: Any) -> Any:
        text = "".join(message["content"] for message in messages)
        return self(text)["input_ids"] if tokenize else text

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        self.seen.append(len(text))
        self.reading.set()
        if "\ud800" in text:
            raise TypeError("not a text")
        if len(text) >= len(LONG) and not self.go_on.wait(60):
            raise TimeoutError("nobody else was answered meanwhile")
        return {"input_ids": [0] * len(text.split())}

    def decode(self, ids: list[int], **_: Any) -> str:
        return "word" * len(ids)


class Engine:
    """The inference thread's place: every request is answered with one token at once."""

    def submit(self, sequence: Sequence) -> None:
        sequence.deliver(Output((TokenOut(0),), "word", "stop"))

    def cancel(self, sequence: Sequence) -> None: ...


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture
def server(tokenizer: Tokenizer) -> EngineServer:
    server = EngineServer("boot", EngineBuild(engine="fake 1", device="cpu", dtype="float32"), "base", 1)
    server.ready(LoadedModel(Engine(), tokenizer, "0" * 64, CONTEXT, frozenset({2})))  # type: ignore[arg-type]
    return server


@pytest.fixture
async def engine(server: EngineServer, tokenizer: Tokenizer) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(server.app())) as client:
        yield client
    tokenizer.go_on.set()


def body(path: str, text: str) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    return {"model": "base", **asked}


BOTH = pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])


@BOTH
async def test_a_prompt_that_is_long_to_read_keeps_no_other_caller_waiting(
    engine: TestClient[Any, Any], tokenizer: Tokenizer, path: str
) -> None:
    order: list[str] = []

    async def ask(who: str, text: str) -> int:
        async with engine.post(path, json=body(path, text)) as answer:
            await answer.read()
            order.append(who)
            return answer.status

    long = asyncio.create_task(ask("acme", LONG))
    assert await asyncio.to_thread(tokenizer.reading.wait, 60)
    assert await ask("bolt", "a short one") == 200
    tokenizer.go_on.set()
    assert await long == 400
    assert order == ["bolt", "acme"]


@BOTH
async def test_a_prompt_that_cannot_fit_by_its_characters_is_refused_and_not_read(
    engine: TestClient[Any, Any], tokenizer: Tokenizer, path: str
) -> None:
    tokenizer.go_on.set()
    async with engine.post(path, json=body(path, "x" * 4_000_000)) as answer:
        error = (await answer.json())["error"]
    assert answer.status == 400
    assert "4000000 characters" in error["message"]
    assert f"{CONTEXT} tokens" in error["message"]
    assert tokenizer.seen == []


@BOTH
async def test_a_prompt_that_is_no_text_is_its_callers_fault(engine: TestClient[Any, Any], path: str) -> None:
    async with engine.post(path, json=body(path, "half a \ud800 character")) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "BadRequestError"


@BOTH
async def test_a_prompt_without_a_token_is_refused(engine: TestClient[Any, Any], path: str) -> None:
    async with engine.post(path, json=body(path, "")) as answer:
        assert answer.status == 400


async def test_more_token_ids_than_the_context_holds_are_refused(engine: TestClient[Any, Any]) -> None:
    async with engine.post("/v1/completions", json={"model": "base", "prompt": [0] * 600_000}) as answer:
        assert answer.status == 400
        assert "600000" in (await answer.json())["error"]["message"]


async def test_more_messages_than_any_context_holds_are_refused_before_they_are_read(
    engine: TestClient[Any, Any], tokenizer: Tokenizer
) -> None:
    messages = [{"role": "user", "content": ""}] * 100_000
    async with engine.post("/v1/chat/completions", json={"model": "base", "messages": messages}) as answer:
        assert answer.status == 400
        assert "messages" in (await answer.json())["error"]["message"]
    assert tokenizer.seen == []


@BOTH
async def test_small_requests_are_answered_while_a_large_body_is_read(
    engine: TestClient[Any, Any], server: EngineServer, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child that reads large bodies opens a pipe that nobody has opened yet, and so stands still."""
    monkeypatch.setattr(body_reader, "DEADLINE_S", held_bodies.PATIENCE_S)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    server._chats = BodyReader(held_bodies.chat)
    server._completions = BodyReader(held_bodies.completion)
    order: list[str] = []

    async def ask(who: str, asked: dict[str, Any]) -> int:
        async with engine.post(path, json=asked) as answer:
            order.append(who)
            return answer.status

    large = asyncio.create_task(ask("large", body(path, "x" * 2**20) | {"user": str(gate)}))
    begun = await held_bodies.held(gate, large)
    assert [await ask("small", body(path, "a short one")) for _ in range(5)] == [200] * 5
    assert not large.done()
    os.close(begun)
    assert await large == 400
    assert order == ["small"] * 5 + ["large"]


@BOTH
@pytest.mark.parametrize("depth", [62, 70, *range(960, 1000, 4)])
async def test_json_that_is_nested_deep_is_refused_and_not_read_on(
    engine: TestClient[Any, Any], path: str, depth: int
) -> None:
    raw = json.dumps(body(path, "a short one"))[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}"
    async with engine.post(path, data=raw.encode()) as answer:
        assert answer.status == (200 if depth < 64 else 400)


@BOTH
async def test_a_large_body_is_answered_as_a_small_one_is(engine: TestClient[Any, Any], path: str) -> None:
    asked = body(path, "a short one")
    padded = asked | {"metadata": {"note": "x" * 2**17}}
    answers = []
    for one in (asked, padded):
        async with engine.post(path, json=one) as answer:
            document = await answer.json()
            answers.append((answer.status, document["choices"], document["usage"]))
    assert answers[0] == answers[1]
    assert answers[0][0] == 200


def test_the_child_that_reads_bodies_needs_no_torch() -> None:
    program = "import sys, loradeck_agent.embedded.openai; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False\n"
