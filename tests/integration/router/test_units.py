"""What counts as a unit of evidence, of bodies as OpenAI's own client sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from tests.fleets.waiting import until
from tests.integration.router.running import KEY, Running, entry, release, unchecked
from tests.integration.router.upstream import Upstream

from loradeck.schemas.table import ResponseChecks

V1 = release("v1")
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "ticket",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {f"field_{number}": {"type": "string", "description": "d" * 100} for number in range(24)},
        },
    },
}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": f"tool_{number}",
            "description": "d" * 200,
            "parameters": {"type": "object", "properties": {"order": {"type": "string"}}},
        },
    }
    for number in range(12)
]


@pytest.fixture
async def served(router: Running, engine: Upstream) -> Running:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(unchecked(V1))
    return router


@pytest.fixture
async def client(served: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


async def ask(client: openai.AsyncOpenAI, question: str, **settings: Any) -> None:
    messages: Any = [{"role": "user", "content": question}]
    await client.chat.completions.create(model="acme", messages=messages, **settings)


async def counted(served: Running) -> tuple[int, int]:
    """Requests that were admitted, and the units among them."""
    rows = await served.stats()
    return sum(row["admitted"] for row in rows), sum(second[1] for row in rows for second in row["votes"])


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="plain"),
        pytest.param({"response_format": SCHEMA}, id="a schema of 3 kB behind the messages"),
        pytest.param({"tools": TOOLS}, id="tools behind the messages"),
    ],
)
async def test_ten_different_questions_are_ten_units_whatever_stands_behind_them(
    served: Running, client: openai.AsyncOpenAI, settings: dict[str, Any]
) -> None:
    for number in range(10):
        await ask(client, f"Where does order {chr(65 + number) * 3} go?", **settings)
    assert await counted(served) == (10, 10)


async def test_transactions_that_differ_in_their_numbers_alone_are_units(
    served: Running, client: openai.AsyncOpenAI
) -> None:
    for number in range(60):
        await ask(client, f"Is a payment of {number * 17} EUR on account {number:08d} fraud?")
    assert await counted(served) == (60, 60)


async def test_what_the_client_sends_again_after_a_failure_is_no_unit_of_its_own(
    served: Running, client: openai.AsyncOpenAI, engine: Upstream
) -> None:
    engine.ill = 500
    again = client.with_options(max_retries=2)
    with pytest.raises(openai.InternalServerError):
        await ask(again, "Where is my order?")
    assert len(engine.seen) >= 3, "the client has tried three times"
    admitted, units = await counted(served)
    assert admitted >= 3
    assert units == 1
    engine.ill = None
    await ask(client, "Where is my order?")
    assert (await counted(served))[1] == 1, "the try that succeeds belongs to those before it"


async def test_the_same_body_beside_one_that_has_not_ended_is_no_unit_of_its_own(
    served: Running, client: openai.AsyncOpenAI, engine: Upstream
) -> None:
    engine.going.clear()
    both = [asyncio.create_task(ask(client, "Where is my order?")) for _ in range(2)]
    await until(lambda: len(engine.seen) == 2, "both are under way")
    engine.going.set()
    await asyncio.gather(*both)
    assert await counted(served) == (2, 1)


async def test_a_template_that_is_answered_well_each_time_is_a_unit_each_time(
    served: Running, client: openai.AsyncOpenAI
) -> None:
    for _ in range(5):
        await ask(client, "Summarise today's news.")
    assert await counted(served) == (5, 5)


async def test_what_is_asked_again_since_its_answer_was_bad_is_no_unit_of_its_own(
    served: Running, client: openai.AsyncOpenAI, engine: Upstream
) -> None:
    await served.table(entry(V1, 2, checks=ResponseChecks(refusals=("no",))))
    engine.says = "no"
    for number in range(1, 4):
        await ask(client, "Where is my order?")
        await served.trace(number)
    assert await counted(served) == (3, 1)
    engine.says = None
    await ask(client, "Where is my order?")
    await served.trace(4)
    await ask(client, "Where is my order?")
    await served.trace(5)
    assert await counted(served) == (5, 2), "once it was answered well, the next one asks anew"
