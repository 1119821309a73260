"""Answers: the right adapter's whatever else is in the batch, streamed or not, with exact counts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.engine.running import EMBEDDED_ONLY, Engine, Load, chat_body, margins_of, tokens_of
from tests.fakes import peft_adapters

from loradeck_agent.host.errors import AgentError
from loradeck_agent.serving.engine_api import EngineAddress, EngineApi

CLEAR = 1e-3
"""A margin (nats) above which fp32 sums in another order cannot change the greedy token."""

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def clear_prefix(answer: dict[str, Any]) -> list[int]:
    """Tokens up to the first that was nearly a tie."""
    out = []
    for token, margin in zip(tokens_of(answer), margins_of(answer), strict=True):
        if margin < CLEAR:
            break
        out.append(token)
    return out


async def stream(engine: Engine, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a streamed answer, without the closing [DONE], which is asserted."""
    events, done = [], 0
    async with engine.client() as http, http.stream("POST", "/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        async for line in reply.aiter_lines():
            if line == "data: [DONE]":
                done += 1
            elif line:
                events.append(json.loads(line.removeprefix("data: ")))
    assert done == 1
    return events


async def test_a_mixed_batch_answers_token_by_token_as_each_request_alone(
    engine: Engine, load: Load, adapters: list[Path]
) -> None:
    for name, folder in zip("abc", adapters, strict=True):
        load(name, folder)
    # On CPU vLLM's base alone answers as some adapter when it is asked beside one: tests/vllm/test_hazards.py
    models = ("a", "b", "c") if engine.kind == "vllm" else ("a", "base", "b", "c")
    asked = [(model, "word " * length) for length in (1, 3, 9, 20) for model in models]
    bodies = [chat_body(model, text, max_tokens=4 + 3 * i) for i, (model, text) in enumerate(asked)]
    alone = [engine.http.post("/v1/chat/completions", json=body).json() for body in bodies]
    async with engine.client() as http:
        for _ in range(3):
            together = await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for body in bodies))
            for one, reply in zip(alone, together, strict=True):
                prefix = clear_prefix(one)
                assert tokens_of(reply.json())[: len(prefix)] == prefix
    assert sum(len(clear_prefix(one)) for one in alone) > 100  # enough was compared to mean something
    assert len({tuple(tokens_of(one)[:4]) for one in alone[: len(models)]}) == len(models)


def answers_as_peft(engine: Engine, name: str, folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(engine.base)
    messages = [{"role": "user", "content": "Good morning"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    answer = engine.chat(name, "Good morning", max_tokens=8)
    tokens = tokens_of(answer)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(engine.base), folder)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    logprobs = torch.log_softmax(logits, -1)
    for at, entry in enumerate(answer["choices"][0]["logprobs"]["content"]):
        assert entry["logprob"] == pytest.approx(float(logprobs[at, tokens[at]]), abs=1e-3)
        best = [int(pair["token"].removeprefix("token_id:")) for pair in entry["top_logprobs"]]
        if margins_of(answer)[at] > CLEAR:
            assert best == logprobs[at].topk(2).indices.tolist()


def test_an_adapter_answers_as_peft_computes_it(engine: Engine, load: Load, adapters: list[Path]) -> None:
    for name, folder in zip("abc", adapters, strict=True):
        load(name, folder)
        answers_as_peft(engine, name, folder)


@pytest.mark.parametrize("kind", peft_adapters.SERVED)
def test_an_adapter_of_each_kind_answers_as_peft_computes_it_beside_another(
    engine: Engine, load: Load, adapters: list[Path], tmp_path: Path, kind: str
) -> None:
    peft_adapters.save(engine.base, tmp_path, **peft_adapters.SERVED[kind])
    assert load("beside", adapters[0]).status_code == 200
    assert load("kind", tmp_path).status_code == 200
    answers_as_peft(engine, "kind", tmp_path)
    answers_as_peft(engine, "beside", adapters[0])


async def test_the_base_alone_is_untouched_by_loads_and_unloads(
    engine: Engine, load: Load, adapters: list[Path]
) -> None:
    body = chat_body("base", "Nothing may change this answer", max_tokens=40)
    before = clear_prefix(engine.http.post("/v1/chat/completions", json=body).json())
    assert len(before) > 20
    async with engine.client() as http:
        running = asyncio.gather(*(http.post("/v1/chat/completions", json=body) for _ in range(4)))
        for name, folder in zip("ab", adapters, strict=False):
            assert load(name, folder).status_code == 200
        assert engine.http.post("/v1/unload_lora_adapter", json={"lora_name": "b"}).status_code == 200
        answers = [*await running, await http.post("/v1/chat/completions", json=body)]
    assert [tokens_of(reply.json())[: len(before)] for reply in answers] == [before] * 5


@EMBEDDED_ONLY  # vLLM passes it on to other requests: tests/vllm/test_hazards.py
async def test_the_base_alone_is_untouched_by_a_hostile_adapter(
    engine: Engine, load: Load, adapters: list[Path], make_adapter: Any, tmp_path: Path
) -> None:
    body = chat_body("base", "Nothing may change this answer", max_tokens=40)
    before = tokens_of(engine.http.post("/v1/chat/completions", json=body).json())
    huge = make_adapter(engine.base, tmp_path / "huge", scale=1e25)  # finite on disk, infinite in use
    async with engine.client() as http:
        running = asyncio.gather(*(http.post("/v1/chat/completions", json=body) for _ in range(4)))
        assert load("a", adapters[0]).status_code == 200
        assert load("huge", huge).status_code == 200
        hostile, answers = await asyncio.gather(http.post("/v1/chat/completions", json=chat_body("huge", "x")), running)
        assert hostile.status_code == 500
        again = await asyncio.gather(
            http.post("/v1/chat/completions", json=body), http.post("/v1/chat/completions", json=chat_body("huge", "x"))
        )
    assert [tokens_of(reply.json()) for reply in (*answers, again[0])] == [before] * 5
    assert again[1].status_code == 500


async def test_answers_under_way_at_an_unload_are_finished_under_their_adapter(
    engine: Engine, load: Load, adapters: list[Path]
) -> None:
    load("a", adapters[0])
    body = chat_body("a", "A long answer", max_tokens=200, ignore_eos=True)
    alone = engine.http.post("/v1/chat/completions", json=body).json()
    async with engine.client() as http:
        lines = []
        async with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as reply:
            async for line in reply.aiter_lines():
                lines.append(line)
                if len(lines) == 9:
                    unload = await http.post("/v1/unload_lora_adapter", json={"lora_name": "a"})
                    assert unload.status_code == 200
                    assert (await http.post("/v1/chat/completions", json=body)).status_code == 404
                    # The name may be loaded again at once; the answer under way is still the old one's.
                    again = {"lora_name": "a", "lora_path": str(adapters[1])}
                    assert (await http.post("/v1/load_lora_adapter", json=again)).status_code == 200
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        new = (await http.post("/v1/chat/completions", json=body)).json()
    streamed = [
        int(e["token"][9:]) for event in events for e in (event["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    prefix = clear_prefix(alone)
    assert len(streamed) == 200
    assert streamed[: len(prefix)] == prefix
    assert tokens_of(new)[:8] != tokens_of(alone)[:8]


async def test_a_short_request_is_answered_while_a_long_one_goes_on(engine: Engine) -> None:
    ended = []

    async def ask(http: Any, name: str, tokens: int) -> None:
        await http.post("/v1/chat/completions", json=chat_body("base", "Hi", max_tokens=tokens, ignore_eos=True))
        ended.append(name)

    async with engine.client() as http:
        long = asyncio.create_task(ask(http, "long", 400))
        await asyncio.sleep(0)
        await ask(http, "short", 2)
        await long
    assert ended == ["short", "long"]


@pytest.mark.parametrize("model", ["base", "a"])
async def test_streaming_says_the_same_as_not_streaming(
    engine: Engine, load: Load, adapters: list[Path], model: str
) -> None:
    load("a", adapters[0])
    body = chat_body(model, "Say something", max_tokens=20, ignore_eos=True)
    whole = engine.http.post("/v1/chat/completions", json=body).json()
    events = await stream(engine, {**body, "stream": True, "stream_options": {"include_usage": True}})
    choices = [event["choices"][0] for event in events if event["choices"]]
    assert choices[0]["delta"]["role"] == "assistant"
    assert "".join(c["delta"]["content"] for c in choices) == whole["choices"][0]["message"]["content"]
    ends = [c["finish_reason"] for c in choices]
    assert (ends[-1], set(ends[:-1])) == ("length", {None})
    logprobs = [entry for c in choices if c["logprobs"] for entry in c["logprobs"]["content"]]
    assert [e["token"] for e in logprobs] == [e["token"] for e in whole["choices"][0]["logprobs"]["content"]]
    assert [events[-1]["usage"][count] for count in COUNTS] == [whole["usage"][count] for count in COUNTS]


def test_logprobs_have_the_shapes_of_both_calls(engine: Engine) -> None:
    chat = engine.chat("base", "Hi", max_tokens=5, top_logprobs=3, ignore_eos=True)
    entries = chat["choices"][0]["logprobs"]["content"]
    assert [len(e["top_logprobs"]) for e in entries] == [3] * 5
    for entry in entries:
        values = [pair["logprob"] for pair in entry["top_logprobs"]]
        assert values == sorted(values, reverse=True)
        assert entry["token"] == entry["top_logprobs"][0]["token"]  # greedy
        assert 0 >= entry["logprob"] == values[0]
    without = engine.chat("base", "Hi", logprobs=False, top_logprobs=0)
    assert without["choices"][0]["logprobs"] is None
    body = {"model": "base", "prompt": "Hi", "max_tokens": 3, "temperature": 0, "logprobs": 2}
    plain = engine.http.post("/v1/completions", json={**body, "return_tokens_as_token_ids": True}).json()["choices"][0]
    assert [len(plain["logprobs"][key]) for key in ("tokens", "token_logprobs", "top_logprobs")] == [3, 3, 3]
    assert [len(pairs) for pairs in plain["logprobs"]["top_logprobs"]] == [2, 2, 2]
    assert all(token.startswith("token_id:") for token in plain["logprobs"]["tokens"])


def test_max_tokens_ends_an_answer_and_usage_counts_exactly(engine: Engine) -> None:
    answer = engine.chat("base", "Hi", max_tokens=7, ignore_eos=True)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(tokens_of(answer)) == answer["usage"]["completion_tokens"] == 7
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 7


async def test_a_stop_string_ends_the_answer_before_it_streamed_or_not(engine: Engine) -> None:
    body = {"model": "base", "prompt": "abc", "max_tokens": 120, "temperature": 0, "ignore_eos": True}
    text = engine.http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    start = next(i for i in range(4, len(text) - 3) if "\ufffd" not in text[i : i + 3])
    stop = text[start : start + 3]
    expected = text[: text.index(stop)]
    answer = engine.http.post("/v1/completions", json={**body, "stop": [stop]}).json()["choices"][0]
    assert answer["finish_reason"] == "stop"
    assert answer["text"] == expected
    async with (
        engine.client() as http,
        http.stream("POST", "/v1/completions", json={**body, "stop": stop, "stream": True}) as reply,
    ):
        lines = [line async for line in reply.aiter_lines() if line.startswith("data: {")]
    chunks = [json.loads(line[6:])["choices"][0] for line in lines]
    assert "".join(chunk["text"] for chunk in chunks) == expected
    assert chunks[-1]["finish_reason"] == "stop"


def test_the_end_token_ends_an_answer_is_counted_and_is_not_in_the_text(engine: Engine) -> None:
    for seed in range(200):  # a random model ends its answer sooner or later when sampled hot
        answer = engine.chat("base", "Hi", max_tokens=60, temperature=2.0, seed=seed)
        if answer["choices"][0]["finish_reason"] == "stop":
            break
    tokens = tokens_of(answer)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert (tokens[-1], tokens.count(2)) == (2, 1)
    assert "<|im_end|>" not in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] == len(tokens)


def test_sampling_repeats_with_a_seed_and_varies_without(engine: Engine) -> None:
    def sampled(**settings: Any) -> list[int]:
        return tokens_of(engine.chat("base", "Hi", temperature=1.5, max_tokens=20, ignore_eos=True, **settings))

    assert sampled(seed=7) == sampled(seed=7)
    assert len({tuple(sampled()) for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "nobody"}, 404),
        ({"messages": []}, 400),
        ({"messages": "hello"}, 400),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": 100_000}, 400),
        ({"temperature": -1}, 400),
        ({"top_logprobs": 1000}, 400),
        ({"n": 2}, 400),
        ({"stop": [""]}, 400),
        ({"seed": 2**70}, 400),
        ({"seed": -(2**70)}, 400),
    ],
)
def test_a_request_that_cannot_be_served_as_asked_is_refused(
    engine: Engine, change: dict[str, Any], status: int
) -> None:
    reply = engine.http.post("/v1/chat/completions", json={**chat_body("base", "Hi"), **change})
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


async def test_a_seed_that_no_engine_takes_is_its_callers_400_and_ends_nobody_elses_answer(engine: Engine) -> None:
    other = chat_body("base", "Hi", max_tokens=300, ignore_eos=True, stream=True)
    hostile = chat_body("base", "Hi", temperature=1, seed=2**70)
    async with engine.client() as http, http.stream("POST", "/v1/chat/completions", json=other) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        replies = await asyncio.gather(*(http.post("/v1/chat/completions", json=hostile) for _ in range(3)))
        rest = [line async for line in lines if line]
    assert [reply.status_code for reply in replies] == [400] * 3
    assert all("seed" in reply.json()["error"]["message"] for reply in replies)
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"


@EMBEDDED_ONLY
@pytest.mark.parametrize("asked", [{"top_p": 0.5}, {"response_format": {"type": "json_object"}}])
def test_what_an_engine_does_not_do_is_refused_and_not_left_out(engine: Engine, asked: dict[str, Any]) -> None:
    reply = engine.http.post("/v1/chat/completions", json={**chat_body("base", "Hi"), **asked})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_it_says_how_many_requests_wait_in_it(engine: Engine) -> None:
    lines = engine.http.get("/metrics/").text.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("vllm:num_requests_waiting ")] == ["0"] or any(
        line.startswith("vllm:num_requests_waiting{") and float(line.split()[-1]) == 0 for line in lines
    )


def test_a_body_that_is_not_json_is_400(engine: Engine) -> None:
    assert engine.http.post("/v1/chat/completions", content=b"{").status_code == 400
    assert engine.http.post("/v1/load_lora_adapter", content=b"[]").status_code == 400


def test_a_prompt_longer_than_the_context_is_400(engine: Engine) -> None:
    assert engine.http.post("/v1/completions", json={"model": "base", "prompt": "x" * 2000}).status_code == 400


async def test_many_more_requests_than_rows_are_all_answered(engine: Engine, load: Load, adapters: list[Path]) -> None:
    load("a", adapters[0])
    models = ["a", "base"] * 50
    async with engine.client() as http:
        replies = await asyncio.gather(
            *(http.post("/v1/chat/completions", json=chat_body(m, "Hi", max_tokens=3)) for m in models)
        )
    assert [reply.status_code for reply in replies] == [200] * 100
    answers = {
        model: {tuple(tokens_of(r.json())) for m, r in zip(models, replies, strict=True) if m == model} for model in "a"
    }
    assert len(answers["a"]) == 1


async def test_an_evaluation_gets_the_text_that_a_caller_gets_and_vllm_says_how_likely_tokens_are(
    engine: Engine, load: Load, adapters: list[Path]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    load("a", adapters[0])
    tokenizer = AutoTokenizer.from_pretrained(engine.base)
    messages = [{"role": "user", "content": "word word"}]
    prompt = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    api = EngineApi(EngineAddress(socket=str(engine.socket)))
    said = engine.chat("a", "word word")
    assert await api.complete("a", prompt, 12) == (
        said["choices"][0]["message"]["content"],
        said["usage"]["completion_tokens"],
    )
    with pytest.raises(AgentError) as gone:
        await api.complete("not loaded", prompt, 12)
    assert gone.value.code == "engine_busy", "it may be loaded again in a moment"
    if engine.kind == "vllm":
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(engine.base), adapters[0]).eval()
        answer = [7, 8, 9]
        with torch.inference_mode():
            logs = torch.log_softmax(model(torch.tensor([[*prompt, *answer]])).logits[0].float(), -1)
        expected = sum(float(logs[len(prompt) - 1 + at, token]) for at, token in enumerate(answer))
        assert await api.log_likelihood("a", [*prompt, *answer], len(answer)) == pytest.approx(expected, abs=1e-2)
    api.close()


async def test_a_conversation_is_told_in_the_tokens_in_which_it_is_answered(engine: Engine) -> None:
    messages = [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2 w3"}]
    told = engine.http.post("/tokenize", json={"model": "base", "messages": messages}).json()
    asked = engine.http.post(
        "/v1/chat/completions", json={"model": "base", "messages": messages, "max_tokens": 1}
    ).json()
    assert told["count"] == len(told["tokens"]) == asked["usage"]["prompt_tokens"]
    api = EngineApi(EngineAddress(socket=str(engine.socket)))
    assert await api.tokens("base", messages, ()) == tuple(told["tokens"])
    api.close()
    refused = engine.http.post("/tokenize", json={"model": "base", "messages": "w2"})
    assert refused.status_code in (400, 422)
