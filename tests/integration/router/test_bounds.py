"""What a router keeps in memory is bounded, and says so by letting go of the oldest."""

from __future__ import annotations

import asyncio
import json

from loradeck.schemas.table import ResponseChecks
from loradeck.schemas.trace import SAMPLE_CHARS
from loradeck_agent.router.counters import Stats
from loradeck_agent.router.response_checks import Checks
from loradeck_agent.router.trace import Row, Trace


def row(number: int, tenant: str = "acme") -> Row:
    return Row(f"r{number}", tenant, "production", "0" * 64, 1, "e0", False, number * 10**6, number, 0, number * 10**6)


def test_the_trace_keeps_the_newest_rows_and_reads_on_from_any_of_them() -> None:
    trace = Trace(kept=5)
    for number in range(1, 13):
        trace.add(row(number, "acme" if number % 2 else "globex"))
    assert [r.seq for r in trace.after(0)] == [8, 9, 10, 11, 12]
    assert [r.seq for r in trace.after(10)] == [11, 12]
    assert trace.after(12) == trace.after(99) == []
    assert [r.seq for r in trace.after(0, "acme")] == [9, 11]


def test_who_answered_a_request_last_is_known_for_as_long_as_its_row_is_kept() -> None:
    trace = Trace(kept=2)
    trace.add(row(1))
    again = row(1)
    again.release = "1" * 64
    trace.add(again)  # a caller names its requests, and may use a name twice
    trace.add(row(1, "globex"))
    assert trace.release_of("acme", "production", "r1") == "1" * 64
    assert trace.release_of("globex", "production", "r1") == "0" * 64
    trace.add(row(2))
    assert trace.release_of("acme", "production", "r1") is None
    trace.add(row(3))
    assert trace.release_of("globex", "production", "r1") is None


def test_counters_of_old_generations_are_let_go_but_never_one_with_an_answer_under_way() -> None:
    stats = Stats()
    first = stats.counter("acme", "production", 1, "a" * 64, "e0")
    first.admit(row(1), "a caller")
    for generation in range(2, 400):
        counter = stats.counter("acme", "production", generation, "a" * 64, "e0")
        counter.admit(row(generation), "a caller")
        counter.leave(row(generation), "answered")
    kept = [t.generation for t in stats.traffic()]
    assert len(kept) == 256
    assert kept[0] == 1
    assert kept[-1] == 399
    assert stats.counter("acme", "production", 399, "a" * 64, "e0") is counter
    assert stats.attempted() == {("acme", "production"): 399}, "a count that falls is taken for one that began again"


async def test_answers_beyond_the_queues_bound_go_unchecked() -> None:
    checks = Checks()  # its child is not started, so nothing leaves the queue
    asked = ResponseChecks()
    settled: list[bool | None] = []
    while checks.has_room(asked):
        checks.submit(b"{}", streamed=False, checks=asked, done=settled.append)
        assert len(settled) == 0
    await checks.close()
    assert settled == [None] * 1000


async def test_texts_of_four_bytes_a_character_do_not_end_the_checks() -> None:
    checks, texts = Checks(), asyncio.get_running_loop().create_future()
    checks.start()
    question = json.dumps({"prompt": "🦊" * 2 * SAMPLE_CHARS}).encode()
    answer = json.dumps({"choices": [{"text": "🦊" * 2 * SAMPLE_CHARS}]}).encode()
    checks.texts(question, answer, streamed=False, redacted=True, done=texts.set_result)
    async with asyncio.timeout(60):
        asked, answered = await texts
    assert (len(asked), len(answered)) == (SAMPLE_CHARS, SAMPLE_CHARS)
    await checks.close()


async def test_halves_of_surrogate_pairs_are_no_part_of_the_texts_of_a_sample() -> None:
    checks, texts = Checks(), asyncio.get_running_loop().create_future()
    checks.start()
    question, answer = b'{"prompt": "a\\ud83eb"}', b'{"choices": [{"text": "\\udd8a"}]}'
    checks.texts(question, answer, streamed=False, redacted=True, done=texts.set_result)
    async with asyncio.timeout(60):
        assert await texts == ("a?b", "?")
    await checks.close()


async def test_counts_have_the_whole_length_of_a_question_and_take_none_of_the_time_of_models() -> None:
    charged: list[bool] = []
    checks = Checks(lambda seconds, *, of_plugin: charged.append(of_plugin))
    checks.start()
    question, loop = json.dumps({"prompt": "a " * SAMPLE_CHARS}).encode(), asyncio.get_running_loop()
    counted, shown = loop.create_future(), loop.create_future()
    checks.counted(question, b"yes", streamed=False, done=counted.set_result)
    async with asyncio.timeout(60):
        (asked, answered), chars = await counted
    assert (len(asked), answered, chars) == (SAMPLE_CHARS, "yes", 2 * SAMPLE_CHARS)
    assert charged == []
    checks.texts(question, b"yes", streamed=False, redacted=False, done=shown.set_result)
    async with asyncio.timeout(60):
        await shown
    assert charged == [False]
    await checks.close()


async def test_a_failure_of_whoever_waits_for_one_answer_does_not_end_the_checks_of_the_next() -> None:
    checks, verdict = Checks(), asyncio.get_running_loop().create_future()
    checks.start()

    def fails(_: object) -> None:
        raise ValueError("no sample")

    checks.texts(b'{"prompt": "a"}', b"{}", streamed=False, redacted=True, done=fails)
    checks.submit(b"{}", streamed=False, checks=ResponseChecks(), done=verdict.set_result)
    async with asyncio.timeout(60):
        assert await verdict is not None
    await checks.close()
