"""An evaluation that asks the engine: the agent's socket, tried again while it is away, bounded, and ended at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.engine_relay import Answering, EngineRelay
from tests.fleets.waiting import PATIENCE_S

from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.executor import EngineDoor
from loradeck_agent.executors.evaluation import served as module
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import ExecutorFailure, Preempted
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.http_client import Reply
from loradeck_agent.serving.engine_api import EngineAddress, EngineApi
from loradeck_agent.serving.engine_questions import EngineQuestion

BUILD = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answering], EngineRelay]]:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    monkeypatch.chdir(tmp_path)
    made: list[EngineRelay] = []

    def make(answer: Answering) -> EngineRelay:
        made.append(EngineRelay(Path("ask.sock"), answer))
        return made[-1]

    yield make
    for one in made:
        one.listener.close()


def served(at_once: int = 4) -> Served:
    return Served(EngineDoor(replica="n1/e0", socket="ask.sock", build=BUILD, scores=True), at_once)


QUESTIONS = [EngineQuestion(prompt=(number + 1,), max_tokens=5) for number in range(12)]


def test_every_question_is_answered_once_and_no_more_at_once_than_was_asked_for(
    agent: Callable[[Answering], EngineRelay],
) -> None:
    three = threading.Barrier(3, timeout=PATIENCE_S)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        three.wait()
        return {"text": f"to {question['prompt'][0]}", "tokens": question["max_tokens"], "ms": 1.5}

    there = agent(answer)
    found = dict(served(3).each(QUESTIONS, lambda: None))
    assert {number: one.text for number, one in found.items()} == {n: f"to {n + 1}" for n in range(12)}
    assert {one.tokens for one in found.values()} == {5}
    assert there.most == 3


def test_a_question_is_asked_again_where_the_agent_or_the_engine_was_away(
    agent: Callable[[Answering], EngineRelay],
) -> None:
    replies: list[dict[str, Any] | None] = [None, {"error": "the engine answered 503", "again": True}, {"text": "here"}]
    agent(lambda _: replies.pop(0))
    ((number, answer),) = served(1).each(QUESTIONS[:1], lambda: None)
    assert (number, answer.text, replies) == (0, "here", [])


def test_a_question_that_the_engine_refuses_ends_the_evaluation_with_its_words(
    agent: Callable[[Answering], EngineRelay],
) -> None:
    agent(lambda _: {"error": "the engine answered 400: too long"})
    with pytest.raises(ExecutorFailure, match="n1/e0: the engine answered 400: too long") as failed:
        list(served(2).each(QUESTIONS, lambda: None))
    assert failed.value.code == "engine_failed"


def test_a_preemption_does_not_wait_for_answers_that_are_under_way(agent: Callable[[Answering], EngineRelay]) -> None:
    asked, never = threading.Event(), threading.Event()

    def answer(_: dict[str, Any]) -> None:
        asked.set()
        never.wait(150)

    def stopping() -> None:
        assert asked.wait(60)
        raise Preempted

    agent(answer)
    before = set(threading.enumerate())
    with pytest.raises(Preempted):
        list(served(1).each(QUESTIONS, stopping))
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(60)
            assert not thread.is_alive()
    never.set()


async def test_the_likeliest_tokens_are_asked_for_as_vllm_says_them_and_the_prompts_own_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api, sent = EngineApi(EngineAddress(socket="engine.sock")), []
    own = {"9": {"logprob": -7.0, "rank": 40}}  # vLLM adds the prompt's own token
    said = {"4": {"logprob": -1.5}, "2": {"logprob": -0.5}, **own}
    answer: dict[str, Any] = {"choices": [{"prompt_logprobs": [None, said, said]}]}

    async def post(_: str, body: dict[str, Any], **__: Any) -> Reply:
        sent.append(body)
        return Reply(200, {}, json.dumps(answer).encode())

    monkeypatch.setattr(api, "_http", type("Http", (), {"post": staticmethod(post)}))
    assert await api.likeliest("base", [7, 8, 9], 2, 2) == (((2, -0.5), (4, -1.5)),) * 2
    assert (sent[0]["prompt_logprobs"], sent[0]["prompt"]) == (2, [7, 8, 9])
    for broken in ([None, said], [None, own, own], [None, None, said], [None, said, {"2": {"logprob": 1e999}}]):
        answer["choices"][0]["prompt_logprobs"] = broken
        with pytest.raises(AgentError, match="no log-probabilities"):
            await api.likeliest("base", [7, 8, 9], 2, 2)


async def test_a_log_probability_that_is_no_finite_number_is_an_error_and_not_the_likeliest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = EngineApi(EngineAddress(socket="engine.sock"))
    for said in (float("-inf"), float("nan")):
        body = json.dumps({"choices": [{"prompt_logprobs": [None, {"8": {"logprob": said}}]}]}).encode()

        async def post(*_: Any, body: bytes = body, **__: Any) -> Reply:
            return Reply(200, {}, body)

        monkeypatch.setattr(api, "_http", type("Http", (), {"post": staticmethod(post)}))
        with pytest.raises(AgentError, match="no log-probabilities"):
            await api.log_likelihood("a", [7, 8], 1)
