"""The store's thread: one call at a time, moves first, and a store that is opened again after an unknown outcome."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from loradeck.hub.log.store_thread import StoreThread
from loradeck.store.interface import OutcomeUnknown, StoreError


class Fake:
    """A store that notes what is asked of it. `reopening` are the outcomes of the next calls of `reopen`."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.threads: set[int] = {threading.get_ident()}
        self.reopening: list[StoreError | None] = []

    def note(self, what: str) -> str:
        self.done.append(what)
        self.threads.add(threading.get_ident())
        return what

    def fail(self, error: BaseException) -> None:
        self.note("fail")
        raise error

    def reopen(self) -> None:
        self.note("reopen")
        if self.reopening and (error := self.reopening.pop(0)) is not None:
            raise error

    def close(self) -> None:
        self.note("close")


@pytest.fixture
def opened() -> list[Fake]:
    return []


@pytest.fixture
def thread(opened: list[Fake]) -> Iterator[StoreThread]:
    def open_store() -> Any:
        opened.append(Fake())
        return opened[-1]

    thread = StoreThread(open_store)
    yield thread
    thread.close()


def note(what: str) -> Any:
    return lambda store: store.note(what)


async def test_calls_run_in_the_thread_that_opened_the_store(thread: StoreThread, opened: list[Fake]) -> None:
    assert await thread(note("a")) == "a"
    assert await thread(note("b"), background=True) == "b"
    assert (opened[0].done, len(opened[0].threads)) == (["a", "b"], 1)
    assert threading.get_ident() not in opened[0].threads


async def test_moves_go_before_what_is_written_down_for_later(thread: StoreThread, opened: list[Fake]) -> None:
    gate = threading.Event()
    first = asyncio.ensure_future(thread(lambda store: gate.wait(60)))
    await asyncio.sleep(0)
    later = [asyncio.ensure_future(thread(note(f"later {n}"), background=True)) for n in (1, 2)]
    await asyncio.sleep(0)
    moves = [asyncio.ensure_future(thread(note(f"move {n}"))) for n in (1, 2)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *later, *moves)
    assert opened[0].done == ["move 1", "move 2", "later 1", "later 2"]


def test_the_error_of_opening_is_raised_where_the_thread_is_made() -> None:
    def broken() -> Any:
        raise StoreError("the file is damaged")

    with pytest.raises(StoreError, match="damaged"):
        StoreThread(broken)


async def test_an_error_is_raised_at_its_caller_and_the_next_call_runs(thread: StoreThread, opened: list[Fake]) -> None:
    with pytest.raises(ValueError, match="mine"):
        await thread(lambda store: store.fail(ValueError("mine")))  # type: ignore[attr-defined]
    assert await thread(note("next")) == "next"
    assert opened[0].done == ["fail", "next"], "only an unknown outcome opens the store again"


async def test_after_an_unknown_outcome_the_store_is_open_again_before_anything_is_read(
    thread: StoreThread, opened: list[Fake]
) -> None:
    with pytest.raises(OutcomeUnknown):
        await thread(lambda store: store.fail(OutcomeUnknown("lost")))  # type: ignore[attr-defined]
    assert opened[0].done == ["fail", "reopen"]
    await thread(note("next"))
    assert opened[0].done == ["fail", "reopen", "next"], "once is enough"


async def test_a_store_that_does_not_open_is_tried_again_by_the_next_call(
    thread: StoreThread, opened: list[Fake], caplog: pytest.LogCaptureFixture
) -> None:
    opened[0].reopening = [StoreError("no"), StoreError("not yet"), None]
    with pytest.raises(OutcomeUnknown):
        await thread(lambda store: store.fail(OutcomeUnknown("lost")))  # type: ignore[attr-defined]
    await thread(note("a"))
    await thread(note("b"))
    await thread(note("c"))
    assert opened[0].done == ["fail", "reopen", "reopen", "a", "reopen", "b", "c"]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 5


async def test_a_call_that_was_given_up_before_its_turn_is_not_made(thread: StoreThread, opened: list[Fake]) -> None:
    gate = threading.Event()
    first = asyncio.ensure_future(thread(lambda store: gate.wait(60)))
    given_up = asyncio.ensure_future(thread(note("given up")))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.sleep(0)
    gate.set()
    await first
    await thread(note("next"))
    assert opened[0].done == ["next"]


async def test_closing_finishes_what_was_asked_for_and_refuses_the_rest() -> None:
    store = Fake()
    thread = StoreThread(lambda: store)  # type: ignore[arg-type, return-value]
    gate = threading.Event()
    calls = [asyncio.ensure_future(thread(lambda _: gate.wait(60)))]
    calls += [
        asyncio.ensure_future(thread(note("move"))),
        asyncio.ensure_future(thread(note("later"), background=True)),
    ]
    await asyncio.sleep(0)
    closing = asyncio.get_running_loop().run_in_executor(None, thread.close)
    gate.set()
    await asyncio.gather(closing, *calls)
    assert store.done == ["move", "later", "close"]
    with pytest.raises(StoreError, match="closed"):
        await thread(note("too late"))
    assert store.done[-1] == "close"


def test_before_the_event_loop_runs_a_call_blocks(thread: StoreThread, opened: list[Fake]) -> None:
    assert thread.now(note("a")) == "a"
    assert opened[0].done == ["a"]


async def test_other_calls_are_made_in_the_middle_of_a_long_one_and_long_ones_one_after_the_other(
    thread: StoreThread, opened: list[Fake]
) -> None:
    def long(name: str, begun: asyncio.Event, loop: asyncio.AbstractEventLoop) -> Any:
        def work(store: Any, between: Callable[[], None]) -> None:
            store.note(f"{name} begins")
            loop.call_soon_threadsafe(begun.set)
            deadline = time.monotonic() + 60
            while f"move in {name}" not in store.done and time.monotonic() < deadline:
                between()
            store.note(f"{name} ends")

        return work

    begun = {name: asyncio.Event() for name in ("one", "two")}
    loop = asyncio.get_running_loop()
    both = [asyncio.ensure_future(thread.long(long(name, begun[name], loop))) for name in begun]
    for name in begun:
        await begun[name].wait()
        await thread(note(f"move in {name}"))
    await asyncio.gather(*both)
    assert opened[0].done == [what.format(n) for n in begun for what in ("{} begins", "move in {}", "{} ends")]


async def test_a_long_call_ends_before_the_store_is_opened_again(thread: StoreThread, opened: list[Fake]) -> None:
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    def work(store: Any, between: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(begun.set)
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                between()
        finally:
            store.note("ended")

    long = asyncio.ensure_future(thread.long(work))
    await begun.wait()
    with pytest.raises(OutcomeUnknown):
        await thread(lambda store: store.fail(OutcomeUnknown("sync failed")))  # type: ignore[attr-defined]
    with pytest.raises(OutcomeUnknown, match="make the backup again"):
        await long
    assert await thread(note("next")) == "next"
    assert opened[0].done == ["fail", "ended", "reopen", "next"]
