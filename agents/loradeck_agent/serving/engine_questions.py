"""The messages between an executor and the engine that serves: questions and answers, one line of JSON each."""

from typing import Any

from pydantic import Field

from loradeck.schemas.ids import Whole, Wire

LONGEST_LINE = 8 * 2**20
"""Bytes of a question: some 600,000 tokens, more than a context here holds."""


class EngineQuestion(Wire):
    """A question to an engine: tokens to go on from, tokens to rate, or a conversation to turn into tokens.

    Or the body of an OpenAI call; its `model` and `stream` are put in on the way.
    """

    prompt: tuple[Whole, ...] = ()
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    base: bool = Field(False, description="asked of the base alone, instead of the release")
    max_tokens: int = Field(0, ge=0, description="longest answer; 0: none is wanted")
    temperature: float = Field(0.0, ge=0, le=2, description="0: the likeliest tokens")
    seed: int | None = Field(None, ge=0, lt=2**31, description="by which the engine draws alike again")
    last: int = Field(0, ge=0, description="the last tokens of the prompt whose log-probability is wanted")
    body: dict[str, Any] | None = Field(
        None, description="instead of all these: a body of /v1/chat/completions, or /v1/completions without `messages`"
    )
    top: int = Field(0, ge=0, le=100, description="at each of them the likeliest tokens that are wanted instead")


class EngineAnswer(Wire):
    """An engine's answer, or why there is none. `again`: it may be asked once more."""

    text: str = ""
    tokens: int = 0
    ids: tuple[Whole, ...] = Field((), description="of a conversation, up to where an answer begins")
    logprob: float | None = Field(None, description="of the last tokens, in nats, summed")
    top: tuple[tuple[tuple[Whole, float], ...], ...] = Field(
        (), description="at each of the last tokens the likeliest ones, likeliest first, with their log-probabilities"
    )
    body: dict[str, Any] | None = Field(None, description="to a body: the engine's answer as it is")
    ms: float = 0.0
    error: str = ""
    again: bool = False
