"""The bytes of requests, as the openai client itself sends them.

The client speaks to a transport of ours that keeps what it is sent. So the order of fields, the escapes and the retries
are the client's: `tools` and `response_format` come behind the messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx2
from numpy.random import Generator
from openai import InternalServerError, OpenAI

from .kinds import BITS_OF_KIND, BITS_OF_STREAM, Kind
from .route import Route
from .streams import Stream, stream

MODEL = "support"
TOOLS, PROPERTIES_OF_TOOL, FIELDS_OF_SCHEMA = 8, 5, 24

SYLLABLES = ("ba", "do", "fi", "ga", "ke", "lu", "mi", "no", "pa", "ri", "so", "tu", "ve", "wa", "xe", "zo")
WORDS = tuple(first + second for first in SYLLABLES for second in SYLLABLES)

ANSWER = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "created": 0,
    "model": MODEL,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Done."}}],
}


class Capture:
    """What a client has sent to a server that answers with these statuses, and with 200 when they are used up."""

    def __init__(self, *statuses: int) -> None:
        self.bodies: list[bytes] = []
        self._statuses = list(statuses)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        """Keep the request's body and answer it. Failures ask for a retry at once, so that nobody waits."""
        self.bodies.append(request.read())
        if self._statuses:
            headers = {"retry-after-ms": "1"}
            return httpx2.Response(self._statuses.pop(0), json={"error": {"message": "try again"}}, headers=headers)
        if json.loads(self.bodies[-1]).get("stream"):
            return httpx2.Response(200, content=b"data: [DONE]\n\n", headers={"content-type": "text/event-stream"})
        return httpx2.Response(200, json=ANSWER)


@contextmanager
def _client(capture: Capture) -> Iterator[OpenAI]:
    """A client with its defaults that sends to `capture`."""
    transport = httpx2.MockTransport(capture.answer)
    with (
        httpx2.Client(transport=transport) as http,
        OpenAI(api_key="none", base_url="http://route.test/v1", http_client=http) as client,
    ):
        yield client


def tries(route: Route, number: int, caller: int, *statuses: int) -> list[bytes]:
    """The bodies that the client sends for one request if the server answers with these statuses first.

    It stops where the client gives up. `number` and `caller` are those of `Requests`.
    """
    capture = Capture(*statuses)
    with _client(capture) as client:
        try:
            answer = client.chat.completions.create(**_arguments(route, number, caller))
        except InternalServerError:
            return capture.bodies
        if number >> BITS_OF_KIND & BITS_OF_STREAM:
            answer.close()
    return capture.bodies


def bodies(route: Route, numbers: list[int], callers: list[int]) -> list[bytes]:
    """The bytes of several bodies, each by its number and caller, by one client."""
    capture = Capture()
    with _client(capture) as client:
        for number, caller in zip(numbers, callers, strict=True):
            answer = client.chat.completions.create(**_arguments(route, number, caller))
            if number >> BITS_OF_KIND & BITS_OF_STREAM:
                answer.close()
    return capture.bodies


def body(route: Route, number: int, caller: int) -> bytes:
    """The bytes of one body. Equal numbers have equal bytes, and different ones different bytes."""
    return bodies(route, [number], [caller])[0]


def _arguments(route: Route, number: int, caller: int) -> dict[str, Any]:
    """What a program passes to the client."""
    kind = Kind(number & (1 << BITS_OF_KIND) - 1)
    generator = stream(route.seed, route.tenant, Stream.BODIES, number)
    arguments: dict[str, Any] = {"model": MODEL, "messages": _messages(kind, number, generator)}
    if number >> BITS_OF_KIND & BITS_OF_STREAM:
        arguments["stream"] = True
    if not route.is_one_key:
        arguments["user"] = f"caller-{caller}"
    if kind is Kind.TOOLS:
        arguments["tools"] = _tools(route.tenant)
    if kind is Kind.SCHEMA:
        arguments["response_format"] = _schema(route.tenant)
    return arguments


def _text(generator: Generator, words: int) -> str:
    """So many words by chance, as a sentence."""
    return " ".join(WORDS[i] for i in generator.integers(0, len(WORDS), words)).capitalize() + "."


def _messages(kind: Kind, number: int, generator: Generator) -> list[dict[str, str]]:
    """The conversation: its last message is what is asked. Transactions differ from each other in numbers alone."""
    system = {"role": "system", "content": "You answer customers of a shop. Be brief, and promise nothing."}
    if kind is Kind.TRANSACTION:
        cents, payer, payee = generator.integers(1, 10**7), *generator.integers(10**9, 10**10, 2)
        question = f"Classify: {cents / 100:.2f} EUR from account {payer} to account {payee}, reference {number}."
        return [system, {"role": "user", "content": question}]
    if kind is Kind.CONVERSATION:
        turns = [
            {"role": ("user", "assistant")[turn % 2], "content": _text(generator, int(generator.integers(20, 80)))}
            for turn in range(2 * int(generator.integers(5, 20)))
        ]
        return [system, *turns, {"role": "user", "content": _text(generator, 20)}]
    opening = "About our new product: " if kind is Kind.NEW else ""
    return [system, {"role": "user", "content": opening + _text(generator, int(generator.integers(20, 60)))}]


@cache
def _tools(tenant: int) -> list[dict[str, Any]]:
    """A tenant's tools: several kB, the same in each request."""
    generator = stream(0, tenant, Stream.BODIES)
    return [
        {
            "type": "function",
            "function": {
                "name": f"tool_{tool}",
                "description": _text(generator, 25),
                "parameters": {"type": "object", "properties": _properties(generator, PROPERTIES_OF_TOOL)},
            },
        }
        for tool in range(TOOLS)
    ]


@cache
def _schema(tenant: int) -> dict[str, Any]:
    """A tenant's schema of answers: 3 kB at least, the same in each request."""
    properties = _properties(stream(1, tenant, Stream.BODIES), FIELDS_OF_SCHEMA)
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "ticket", "strict": True, "schema": schema}}


def _properties(generator: Generator, count: int) -> dict[str, Any]:
    """Fields of a tool or of a schema, each with a description."""
    return {f"field_{i}": {"type": "string", "description": _text(generator, 20)} for i in range(count)}
