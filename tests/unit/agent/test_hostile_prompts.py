"""Prompts that the embedded engine must not take, and prompts that take long: nobody else waits for either."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from loradeck.schemas.attestation import EngineBuild
from loradeck_agent.embedded.sequence import Output, Sequence, TokenOut
from loradeck_agent.embedded.server import EngineServer, LoadedModel

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
        if len(text) >= len(LONG) and not self.go_on.wait(5):
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
async def engine(tokenizer: Tokenizer) -> AsyncIterator[TestClient[Any, Any]]:
    server = EngineServer("boot", EngineBuild(engine="fake 1", device="cpu", dtype="float32"), "base", 1)
    server.ready(LoadedModel(Engine(), tokenizer, "0" * 64, CONTEXT, frozenset({2})))  # type: ignore[arg-type]
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
    assert await asyncio.to_thread(tokenizer.reading.wait, 5)
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
