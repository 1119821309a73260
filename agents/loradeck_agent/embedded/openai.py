"""OpenAI's completions, as far as the engine contract goes: requests checked, answers put into their shapes.

A setting that would change an answer and is not served is refused, never ignored. Answers are collected into one body,
or streamed as server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from loradeck.schemas.fault import first_wrong
from loradeck_agent.host.body_reader import DEPTH, too_deep

if TYPE_CHECKING:  # the child that reads large bodies needs no torch
    from loradeck_agent.embedded.batch import Output, Sampling, TokenOut

TOP_LOGPROBS = 20

MESSAGES = 2048
"""Most messages of a conversation, and most parts of a message: checking 100,000 takes a second of everybody's time."""

TOKEN_IDS = 2**17
"""Most token ids of a prompt: checking 600,000 takes half a second, and no context here holds as many."""

SEED = 2**63
"""Seeds are whole numbers of 64 bits, from -SEED to SEED - 1, as OpenAI's and vLLM's are."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "top_p": (None, 1, 1.0),
    "top_k": (None, -1, 0),
    "min_p": (None, 0, 0.0),
    "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0),
    "repetition_penalty": (None, 1, 1.0),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "functions": (None, []),
    "echo": (None, False),
    "suffix": (None, ""),
    "min_tokens": (None, 0),
    "guided_json": (None,),
    "structured_outputs": (None,),
}
"""Settings of OpenAI's and vLLM's that this engine does not serve, with the values that change nothing."""


class StreamOptions(BaseModel):
    """Options of a streamed answer, by OpenAI's API."""

    include_usage: bool = False


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    seed: int | None = Field(None, ge=-SEED, lt=SEED)
    stop: str | list[str] | None = None
    return_tokens_as_token_ids: bool = False
    ignore_eos: bool = False

    @model_validator(mode="after")
    def _nothing_unserved(self) -> _Request:
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value not in _NEUTRAL[name]:
                raise ValueError(f"{name}={value!r} is not served by this engine")
        if len(self.stops) > 4 or any(not stop for stop in self.stops):
            raise ValueError("stop must be at most 4 strings, none of them empty")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def logprobs_wanted(self) -> int | None:
        raise NotImplementedError

    def sampling(self, max_tokens: int) -> Sampling:
        from loradeck_agent.embedded.batch import Sampling

        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature,
            seed=self.seed,
            stop=self.stops,
            logprobs=self.logprobs_wanted,
            ignore_eos=self.ignore_eos,
        )

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ContentPart(BaseModel):
    """One part of a message's content; only text is supported."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation, by OpenAI's API."""

    role: str = Field(min_length=1, max_length=32)
    content: str | Annotated[list[ContentPart], Field(max_length=MESSAGES)]

    @property
    def text(self) -> str:
        """The content as one text, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(_Request):
    """Body of `POST /v1/chat/completions`, by OpenAI's API."""

    messages: list[Message] = Field(min_length=1, max_length=MESSAGES)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=TOP_LOGPROBS)

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer; None: as many as the context holds."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def logprobs_wanted(self) -> int | None:
        """Number of alternatives whose log-probabilities are wanted for each token; None: no log-probabilities."""
        return self.top_logprobs if self.logprobs else None


class CompletionRequest(_Request):
    """Body of `POST /v1/completions`, by OpenAI's API."""

    prompt: str | list[int]
    max_tokens: int = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS)

    @field_validator("prompt", mode="before")
    @classmethod
    def _not_too_many_ids(cls, prompt: Any) -> Any:
        if isinstance(prompt, list) and len(prompt) > TOKEN_IDS:
            raise ValueError(f"a prompt has at most {TOKEN_IDS} token ids, not {len(prompt)}")
        return prompt

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer."""
        return self.max_tokens

    @property
    def logprobs_wanted(self) -> int | None:
        """Number of alternatives whose log-probabilities are wanted for each token; None: no log-probabilities."""
        return self.logprobs


def read_chat(raw: bytes) -> bytes:
    """Reads a body of `POST /v1/chat/completions`: REFUSED and why, or `+` and what is served of it as JSON."""
    return _read(raw, ChatRequest)


def read_completion(raw: bytes) -> bytes:
    """Reads a body of `POST /v1/completions`, as `read_chat` does."""
    return _read(raw, CompletionRequest)


REFUSED = b"-"
"""The first byte of what was read, where the body is refused."""


def _read(raw: bytes, kind: type[_Request]) -> bytes:
    try:
        body = json.loads(raw)
        if too_deep(raw, body):
            return REFUSED + f"the body has objects or lists in each other more than {DEPTH} deep".encode()
        request = kind.model_validate(body)
    except ValidationError as error:
        return REFUSED + first_wrong(error).encode()
    except (ValueError, RecursionError) as error:
        return REFUSED + f"the body is not JSON: {error}".encode()
    served = request.model_dump(exclude=set(request.model_extra or ()), exclude_unset=True)
    if isinstance(request, ChatRequest):
        served["messages"] = [{"role": message.role, "content": message.text} for message in request.messages]
    return b"+" + json.dumps(served).encode()


Spelling = Callable[[int], str]
"""How a token is spelt in log-probabilities: by its text, or as `token_id:N` where the request asked for ids."""


def chat_logprobs(tokens: Iterable[TokenOut], spell: Spelling) -> dict[str, Any]:
    """`choices[].logprobs` of a chat completion."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = spell(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = []
    for token in tokens:
        assert token.logprob is not None
        content.append({**entry(token.id, token.logprob), "top_logprobs": [entry(*pair) for pair in token.top]})
    return {"content": content}


def completion_logprobs(tokens: Iterable[TokenOut], spell: Spelling, offset: int) -> dict[str, Any]:
    """`choices[].logprobs` of a completion. `offset`: characters of the answer before these tokens."""
    out: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        text = spell(token.id)
        out["tokens"].append(text)
        out["token_logprobs"].append(token.logprob)
        out["top_logprobs"].append({spell(other): logprob for other, logprob in token.top} if token.top else None)
        out["text_offset"].append(offset)
        offset += len(text)
    return out


def usage(prompt: int, answer: int) -> dict[str, int]:
    """Token counts of a request."""
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def error_body(status: int, kind: str, message: str) -> dict[str, Any]:
    """An error in vLLM's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


Request = ChatRequest | CompletionRequest


class AnswerFailed(Exception):
    """The engine could not go on with this answer."""


@dataclass
class Answer:
    """One request's outputs as they arrive from the inference thread, in the event loop."""

    request: Request
    prompt_tokens: int
    spell: Spelling
    outputs: asyncio.Queue[Output] = field(default_factory=asyncio.Queue)
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.is_chat else "cmpl-") + secrets.token_hex(12)

    @property
    def is_chat(self) -> bool:
        """Tells a chat request (True) from a request for a completion."""
        return isinstance(self.request, ChatRequest)

    async def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed. Raises: AnswerFailed: the engine gave it up."""
        tokens: list[TokenOut] = []
        text, finish = "", None
        while finish is None:
            output = await self._next()
            tokens.extend(output.tokens)
            text += output.text
            finish = output.finish
        choice: dict[str, Any] = {"index": 0, "logprobs": self._logprobs(tokens, 0), "finish_reason": finish}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return {**self._head(""), "choices": [choice], "usage": usage(self.prompt_tokens, len(tokens))}

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events, one per step of the engine. A failure is an event of its own, and the last."""
        count, offset, finish = 0, 0, None
        if self.is_chat:
            yield self._event([self._delta({"role": "assistant", "content": ""}, None, None)])
        while finish is None:
            try:
                output = await self._next()
            except AnswerFailed as error:
                yield _sse({"error": {"message": str(error), "type": "InternalServerError", "code": 500}})
                return
            count += len(output.tokens)
            finish = output.finish
            logprobs = self._logprobs(output.tokens, offset)
            offset += len(output.text)
            delta = {"content": output.text} if self.is_chat else {"text": output.text}
            yield self._event([self._delta(delta, logprobs, finish)])
        if self.request.wants_usage_chunk:
            yield _sse({**self._head(".chunk"), "choices": [], "usage": usage(self.prompt_tokens, count)})
        yield b"data: [DONE]\n\n"

    async def _next(self) -> Output:
        output = await self.outputs.get()
        if output.finish == "error":
            raise AnswerFailed(output.error)
        return output

    def _logprobs(self, tokens: list[TokenOut] | tuple[TokenOut, ...], offset: int) -> dict[str, Any] | None:
        if self.request.logprobs_wanted is None:
            return None
        if self.is_chat:
            return chat_logprobs(tokens, self.spell)
        return completion_logprobs(tokens, self.spell, offset)

    def _head(self, suffix: str) -> dict[str, Any]:
        kind = "chat.completion" + suffix if self.is_chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.request.model}

    def _delta(self, delta: dict[str, str], logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
        body = {"delta": delta} if self.is_chat else delta
        return {"index": 0, **body, "logprobs": logprobs, "finish_reason": finish}

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        return _sse({**self._head(".chunk"), "choices": choices})


def _sse(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
