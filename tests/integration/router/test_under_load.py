"""Flips under concurrent load: after an acknowledgement the left release is admitted to no more, and nothing fails."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.fleets.waiting import until
from tests.integration.router.running import Answer, Running, entry, release
from tests.integration.router.upstream import Upstream

FLIPS = 220
RELEASES = [release(f"v{n}") for n in range(FLIPS + 1)]
GENERATION = {f"e0:{ref.engine_name}": n for n, ref in enumerate(RELEASES)}
"""Generation n serves release n: the answer's words say which generation answered."""


class _Callers:
    """Callers that go on until told to stop, and what they saw."""

    def __init__(self, router: Running) -> None:
        self.router = router
        self.acked = 0
        self.sent = 0
        self.stopped = False
        self.answered = 0
        self.streams = 0
        self.wrong: list[str] = []

    async def run(self, *, stream: bool) -> None:
        while not self.stopped:
            floor = self.acked
            answer = await self.router.ask(stream=stream, events=6, delay=0.002 if stream else 0.001)
            self._judge(answer, floor, self.sent)
            self.answered += 1
            self.streams += stream

    def _judge(self, answer: Answer, floor: int, ceiling: int) -> None:
        """Asked after `floor` was acknowledged, answered before anything above `ceiling` was sent."""
        if answer.status != 200:
            self.wrong.append(f"status {answer.status}: {answer.raw!r}")
            return
        by = GENERATION[answer.text]
        if not floor <= by <= ceiling:
            self.wrong.append(f"generation {by} answered between {floor} and {ceiling}")
        if answer.headers["x-loradeck-generation"] != str(by):
            self.wrong.append(f"generation {by} answered under {answer.headers['x-loradeck-generation']}")


async def drive(router: Running, engine: Upstream, flips: int) -> tuple[_Callers, list[dict[str, Any]]]:
    """So many flips under ten callers; the callers, and the admissions that an acknowledgement forbade."""
    await router.engines(("e0", engine.socket, RELEASES))
    acked_ns: dict[int, int] = {}
    callers = _Callers(router)

    async def flip(to: int) -> None:
        callers.sent = to
        (ack,) = await router.table(entry(RELEASES[to], to))
        assert (ack["state"], ack["generation"]) == ("flipped", to)
        acked_ns[to] = ack["mono_ns"]
        callers.acked = to

    await flip(1)
    while (await router.ask()).status != 200:  # the late router is late with its first entry as well
        assert callers.sent == 1
    running = [asyncio.create_task(callers.run(stream=n < 4)) for n in range(10)]
    for to in range(2, flips + 1):
        before = callers.answered
        await until(lambda before=before: callers.answered > before + 3)  # each generation serves someone
        await flip(to)
    callers.stopped = True
    await asyncio.gather(*running)
    late = [
        row
        for row in await router.trace(callers.answered)
        if row["generation"] < flips and row["admitted_mono_ns"] > acked_ns[row["generation"] + 1]
    ]
    return callers, late


async def test_after_each_of_220_acknowledgements_the_left_release_is_never_admitted_to(
    process: Running, engine: Upstream
) -> None:
    callers, late = await drive(process, engine, FLIPS)
    assert callers.wrong == []
    assert late == []
    assert callers.streams > FLIPS // 4
    rows = await process.trace(callers.answered + 1)
    assert {row["status"] for row in rows} == {200}
    traffic = await process.stats()
    assert sum(c["admitted"] for c in traffic) == sum(c["finished"] for c in traffic) == len(rows)
    assert sum(c["errors"] for c in traffic) == sum(c["streams"] for c in traffic) == 0
    assert len({c["generation"] for c in traffic}) > FLIPS // 2


async def test_a_router_that_flips_late_is_caught_by_answers_and_by_its_own_trace(
    stopped: Running, engine: Upstream
) -> None:
    await stopped.spawn(module="tests.integration.router.late")
    await stopped.until_up()
    callers, late = await drive(stopped, engine, 12)
    assert callers.wrong
    assert all("answered between" in wrong for wrong in callers.wrong)
    assert late


async def test_more_answers_under_way_than_files_it_may_open_by_default_keep_no_flip_waiting(
    stopped: Running, engine: Upstream
) -> None:
    """A bad release that answers slowly piles them up: that is when it is rolled back."""
    await stopped.spawn(open_files=64)
    await stopped.until_up()
    await stopped.engines(("e0", engine.socket, RELEASES[:2]))
    await stopped.table(entry(RELEASES[1], 1))
    slow = [asyncio.create_task(stopped.ask(delay=3600)) for _ in range(100)]
    try:
        await until(lambda: len(engine.seen) == len(slow))
        await stopped.leave_control()  # an agent that has just come back has no connection yet
        (ack,) = await stopped.table(entry(RELEASES[0], 2))
        assert (ack["state"], ack["release"]) == ("flipped", RELEASES[0].id)
        assert (await stopped.ask()).text == f"e0:{RELEASES[0].engine_name}"
    finally:
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
