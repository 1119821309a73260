"""An engine that does not answer: requests go to another one, or are refused so that another node is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.waiting import until
from tests.integration.router.running import KEY, Answer, Running, release, unchecked
from tests.integration.router.upstream import Upstream

V1 = release("v1")
WHILE_S = 60.0
"""Longer than a test takes."""


@pytest.fixture
async def other(folder: Path) -> AsyncIterator[Upstream]:
    upstream = Upstream("e1", str(folder / "e1.sock"))
    await upstream.start()
    yield upstream
    await upstream.stop()


async def silence(router: Running, seconds: float = WHILE_S, replica: str = "e0") -> None:
    await router.post("/control/silent", {"replica": replica, "seconds": seconds})


async def serving(router: Running, *engines: Upstream) -> None:
    await router.engines(*((engine.name, engine.socket, [V1]) for engine in engines))
    await router.table(unchecked(V1))


async def asked(router: Running, engine: Upstream, n: int, **test: Any) -> list[asyncio.Task[Answer]]:
    """Requests that have reached their engines, of which this one has some."""
    requests = [asyncio.create_task(router.ask(**test)) for _ in range(n)]
    await until(lambda: len(engine.seen) >= n // 2, "half of them are under way there")
    return requests


async def counts(router: Running) -> dict[str, Counter[str]]:
    """What the counters of each engine have of requests."""
    return {
        row["replica"]: Counter({name: row[name] for name in ("errors", "finished", "refused")})
        for row in await router.stats()
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_that_it_has_not_begun_to_answer_are_answered_by_another_engine(
    router: Running, engine: Upstream, other: Upstream, stream: bool
) -> None:
    await serving(router, engine, other)
    engine.going.clear()
    requests = await asked(router, engine, 10, stream=stream)
    await silence(router)
    answers = await asyncio.gather(*requests)
    assert {(answer.status, answer.text) for answer in answers} == {(200, f"e1:{V1.engine_name}")}
    of = await counts(router)
    assert (of["e0"]["errors"], of["e0"]["finished"]) == (5, 0)
    assert (of["e1"]["errors"], of["e1"]["finished"]) == (0, 10)
    await until(lambda: engine.dropped == 5, "it is not left with what nobody waits for")


async def test_it_is_asked_nothing_until_it_answers_and_then_as_before(
    router: Running, engine: Upstream, other: Upstream
) -> None:
    await serving(router, engine, other)
    await silence(router)
    for _ in range(4):
        assert (await router.ask()).text.startswith("e1:")
    assert not engine.seen
    await silence(router, 0)
    assert Counter([(await router.ask()).text[:3] for _ in range(4)]) == {"e0:": 2, "e1:": 2}


async def test_where_no_other_holds_the_release_requests_are_refused_so_that_another_node_is_asked(
    router: Running, engine: Upstream
) -> None:
    await serving(router, engine)
    engine.going.clear()
    requests = await asked(router, engine, 3)
    await silence(router)
    for answer in (*await asyncio.gather(*requests), await router.ask()):
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "engine_silent", "5")
    of = (await counts(router))["e0"]
    assert (of["errors"], of["finished"]) == (3, 0), "what it was never given is no failure of its"
    assert of["refused"] == 4
    engine.going.set()
    await silence(router, 0)
    assert (await router.ask()).status == 200


async def test_an_answer_that_it_has_begun_goes_on(router: Running, engine: Upstream) -> None:
    await serving(router, engine)
    body = {"model": "acme", "messages": [], "stream": True, "test": {"paced": True}}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with router.callers.post(f"{router.url}/v1/chat/completions", json=body, headers=headers) as answer:
        begun = await answer.content.readany()
        await silence(router)
        for _ in range(4):
            engine.read.release()
        rest = await answer.content.read()
    assert (answer.status, (begun + rest).endswith(b"data: [DONE]\n\n")) == (200, True)


async def test_it_is_asked_again_where_nobody_says_any_more_that_it_does_not_answer(
    router: Running, engine: Upstream
) -> None:
    await serving(router, engine)
    await silence(router, 0.05)

    async def answers() -> bool:
        return (await router.ask()).status == 200

    await until(answers, "an agent that has ended keeps nobody away")


async def test_of_an_engine_that_is_not_here_nothing_is_kept(router: Running, engine: Upstream) -> None:
    await serving(router, engine)
    await silence(router, replica="e9")
    assert (await router.ask()).status == 200


async def test_no_more_requests_are_sent_a_second_time_than_the_budget_has(
    router: Running, engine: Upstream, other: Upstream
) -> None:
    await serving(router, engine, other)
    assert router.here is not None
    engine.going.clear()
    requests = await asked(router, engine, 8)
    router.here.proxy.retries.left = 2
    await silence(router)
    statuses = Counter([answer.status for answer in await asyncio.gather(*requests)])
    assert statuses == {200: 4 + 2, 502: 2}
