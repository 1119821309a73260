"""Answers that run on, and the callers whose answers are bad, as a router reports them of what OpenAI's client asks."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.fleets.waiting import until
from tests.integration.router.running import KEY, Running, entry, release, sha, unchecked
from tests.integration.router.upstream import Upstream

from loradeck.schemas.counts import BINS
from loradeck.schemas.table import ResponseChecks
from loradeck_agent.router.overdue import FEWEST

V1 = release("v1")


@pytest.fixture
async def served(router: Running, engine: Upstream) -> Running:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(unchecked(V1))
    return router


def client_of(served: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture
async def client(served: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(served) as made:
        yield made


async def stream(client: openai.AsyncOpenAI, question: str, **test: Any) -> None:
    """Reads a streamed answer to its end. `test`: what is asked of the engine."""
    messages: Any = [{"role": "user", "content": question}]
    asked: Any = {"test": test}
    answer = await client.chat.completions.create(model="acme", messages=messages, stream=True, extra_body=asked)
    async for _ in answer:
        pass


async def learnt(served: Running) -> list[bool]:
    """Whether it is known after which time a streamed answer is overdue, and one that comes whole."""
    (row,) = await served.stats()
    return [ms > 0 for ms in row.get("overdue_ms", (0, 0))]


async def test_streamed_answers_that_run_on_are_overdue_beside_those_that_end(
    served: Running, client: openai.AsyncOpenAI, engine: Upstream
) -> None:
    for number in range(FEWEST - 1):
        await stream(client, f"Where is order {number}?")
    assert await learnt(served) == [False, False], "what is usual is not known yet"
    await stream(client, "Where is the last order?")
    assert await learnt(served) == [True, False]
    going = [asyncio.create_task(stream(client, f"Tell story {number}.", paced=True)) for number in range(3)]
    for number in range(5):
        await stream(client, f"Where is parcel {number}?")
    decided = dict[int, tuple[int, int]]()

    async def units() -> int:
        """Units of which the router has said whether they are overdue."""
        (row,) = await served.stats()
        decided.update({at: (units, overdue) for at, units, overdue in row.get("overdue_votes", ())})
        return sum(units for units, _ in decided.values())

    async def all_decided() -> bool:
        return await units() == 8

    await until(all_decided, "the five answers and the three that run on are in time or overdue")
    assert sum(overdue for _, overdue in decided.values()) == 3
    for _ in range(3 * 4):
        engine.read.release()
    await asyncio.gather(*going)
    await units()
    assert sum(overdue for _, overdue in decided.values()) == 3, "what ends later was overdue all the same"


async def test_two_routers_name_the_same_bin_of_the_one_user_whose_answers_are_bad(
    router: Running, engine: Upstream, folder: Path
) -> None:
    async with AsyncExitStack() as stack:
        second = Running(folder / "second")
        stack.push_async_callback(second.close)
        await second.start_here()
        for served in (router, second):
            await served.engines(("e0", engine.socket, [V1]))
            await served.table(entry(V1, checks=ResponseChecks(refusals=("no",))))
            client = await stack.enter_async_context(client_of(served))
            for number, user in enumerate(("ann", "bob", "carol", "dave", "carol", "erin")):
                messages: Any = [{"role": "user", "content": f"Where is order {number}?"}]
                asked: Any = {"test": {"answer": "no"}} if user == "carol" else {}
                await client.chat.completions.create(model="acme", messages=messages, user=user, extra_body=asked)
            await served.trace(6)
        found = [
            [of_bin[1:] for row in await served.stats() for of_bin in row["caller_votes"]]
            for served in (router, second)
        ]
    carol, ann = (zlib.crc32(f"{sha(KEY)} {user}".encode()) % BINS for user in ("carol", "ann"))
    assert carol != ann
    for of_router in found:
        assert {bin_ for bin_, *_ in of_router} == {carol}
        assert [sum(of_bin[n] for of_bin in of_router) for n in range(1, 5)] == [2, 0, 2, 2]
