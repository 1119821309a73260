"""Answers on their way out: collected into one body, or streamed as server-sent events."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from loradeck_agent.embedded import openai
from loradeck_agent.embedded.sequence import Output, TokenOut

Request = openai.ChatRequest | openai.CompletionRequest


class AnswerFailed(Exception):
    """The engine could not go on with this answer."""


@dataclass
class Answer:
    """One request's outputs as they arrive from the inference thread, in the event loop."""

    request: Request
    prompt_tokens: int
    spell: openai.Spelling
    outputs: asyncio.Queue[Output] = field(default_factory=asyncio.Queue)
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.is_chat else "cmpl-") + secrets.token_hex(12)

    @property
    def is_chat(self) -> bool:
        """Whether the request is a chat request, rather than a completion."""
        return isinstance(self.request, openai.ChatRequest)

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
        return {**self._head(""), "choices": [choice], "usage": openai.usage(self.prompt_tokens, len(tokens))}

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
            yield _sse({**self._head(".chunk"), "choices": [], "usage": openai.usage(self.prompt_tokens, count)})
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
            return openai.chat_logprobs(tokens, self.spell)
        return openai.completion_logprobs(tokens, self.spell, offset)

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
