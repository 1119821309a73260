"""After a forward move the release beneath is asked again what callers ask: behind them, and for nobody."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.fleets.waiting import PATIENCE_S, until
from tests.integration.router.running import Running, entry, pin, release
from tests.integration.router.upstream import Upstream

from loradeck.schemas.table import ReleaseRef, ResponseChecks, TableEntry
from loradeck_agent.router import asked_again

V1, V2, V3 = release("v1"), release("v2"), release("v3")
LATER_MS = 2 * 10**15


def promoted(generation: int = 2, until_ms: int | None = LATER_MS, **fields: Any) -> TableEntry:
    fields.setdefault("beneath", (V1,))
    return entry(V2, generation, asked_again_until_ms=until_ms, **fields)


def models(engine: Upstream) -> list[str]:
    return [body["model"] for body in engine.seen]


def asked(engine: Upstream, ref: ReleaseRef) -> int:
    return models(engine).count(str(ref.engine_name))


@pytest.fixture
async def served(router: Running, engine: Upstream, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr(asked_again, "PATIENCE_S", PATIENCE_S)
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    await router.post("/control/hub", {"connected": True})
    await router.table(promoted(checks=ResponseChecks(refusals=("no",))))
    return router


async def counted(router: Running, field: str = "again", **figures: int) -> dict[str, Any]:
    """What is reported of the release that is asked again, once its figures are these."""
    again: dict[str, Any] = {}

    async def read() -> bool:
        nonlocal again
        rows = [row[field] for row in await router.stats() if row.get(field)]
        again = rows[-1] if rows else {}
        return all(again.get(name) == value for name, value in figures.items())

    deadline = time.monotonic() + PATIENCE_S
    while not await read():
        assert time.monotonic() < deadline, again
    return again


async def test_the_release_beneath_is_asked_after_the_caller_and_its_answer_reaches_nobody(
    served: Running, engine: Upstream
) -> None:
    answer = await served.ask(stream=True)
    assert answer.text == f"e0:{V2.engine_name}"
    again = await counted(served, pairs=1)
    assert models(engine) == [V2.engine_name, V1.engine_name]
    assert (engine.seen[0].get("stream"), engine.seen[1].get("stream")) == (True, None)
    assert (again["release"], again["asked"], again["checked"], again["bad"]) == (V1.id, 1, 1, [0, 0])


async def test_it_is_in_no_count_and_no_trace_of_callers(served: Running, engine: Upstream) -> None:
    await served.ask()
    await counted(served, pairs=1)
    (counter,) = [row for row in await served.stats() if row["generation"] == 2]
    assert (counter["release"], counter["attempted"], counter["finished"], counter["checked"]) == (V2.id, 1, 1, 1)
    assert [row["release"] for row in await served.trace(1)] == [V2.id]


async def test_both_answers_to_a_unit_go_through_the_same_checks(served: Running, engine: Upstream) -> None:
    await served.ask(answer="no", also={"user": "ann"})  # the engine of these tests says it under either model
    await served.ask(answer="yes", also={"user": "bob"})
    assert (await counted(served, pairs=2))["bad"] == [1, 1]


async def test_a_failure_counts_for_the_release_that_failed(served: Running, engine: Upstream) -> None:
    await served.ask(status=500, also={"user": "ann"})  # from every model but the base: of both
    assert (await counted(served, pairs=1))["failed"] == [1, 1]


async def test_an_engine_without_room_or_without_the_release_speaks_against_nobody(
    served: Running, engine: Upstream
) -> None:
    for status in (404, 429, 503):
        await served.ask(status=status, also={"user": str(status)})
    await served.ask(also={"user": "bob"})
    again = await counted(served, asked=4, pairs=1)  # pairs count in their order: those before it are over
    assert again["failed"] == [0, 0]


async def test_nothing_is_asked_while_requests_wait_in_the_engine(
    served: Running, engine: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_again, "PATIENCE_S", 0.3)
    engine.waiting = 3
    assert (await served.ask()).status == 200
    again = await counted(served, shed=1)
    assert (again["asked"], again["pairs"]) == (0, 0)
    assert asked(engine, V1) == 0


async def test_an_engine_that_does_not_say_what_waits_in_it_is_asked_nothing(
    served: Running, engine: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_again, "PATIENCE_S", 0.3)
    engine.waiting = None
    await served.ask()
    await counted(served, shed=1)
    assert asked(engine, V1) == 0


@pytest.mark.parametrize("bound", ["MOST", "MOST_BYTES"])
async def test_what_waits_to_be_asked_again_is_bounded(
    served: Running, engine: Upstream, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(asked_again, bound, 0)
    assert (await served.ask()).status == 200
    await counted(served, shed=1)
    assert asked(engine, V1) == 0


@pytest.mark.parametrize("why", ["rollback", "another beneath", "unloaded", "pin", "tombstone", "guard off"])
async def test_it_ends_at_once_where_the_release_beneath_is_left(served: Running, engine: Upstream, why: str) -> None:
    engine.going.clear()
    asking = asyncio.create_task(served.ask())
    await until(lambda: asked(engine, V1) == asked(engine, V2) == 1)  # it is being asked
    match why:
        case "rollback":
            await served.table(entry(V1, 3))
        case "another beneath":
            await served.table(promoted(beneath=(V3,)))
        case "unloaded":
            await served.engines(("e0", engine.socket, [V2]))
        case "pin":
            await served.post("/control/pin", pin(V2, (1, 2)).model_dump(mode="json"))
        case "tombstone":
            await served.table(entry(None, 3))
        case "guard off":
            await served.table(promoted(until_ms=None))
    await until(lambda: engine.dropped == 1)
    engine.going.set()
    assert (await asking).headers["x-loradeck-release"] == V2.id
    if why not in ("tombstone", "rollback"):
        await served.ask(also={"user": "bob"})
        assert asked(engine, V1) == 1
    assert not [row["again"]["pairs"] for row in await served.stats() if row.get("again") and row["again"]["pairs"]]


async def test_nothing_is_asked_a_day_later_or_without_a_hub_or_where_it_is_not_loaded(
    served: Running, engine: Upstream
) -> None:
    await served.table(promoted(3, until_ms=1))
    await served.ask(also={"user": "a"})
    await served.table(promoted(4, beneath=(V3,)))
    await served.ask(also={"user": "b"})
    await served.post("/control/hub", {"connected": False, "silent_s": 1})
    await served.table(promoted(5))
    await served.ask(also={"user": "c"})
    assert models(engine) == [V2.engine_name] * 3


async def test_a_repetition_is_not_asked_again(served: Running, engine: Upstream) -> None:
    engine.going.clear()
    tries = [asyncio.create_task(served.ask()) for _ in range(3)]
    await until(lambda: asked(engine, V2) == 3, "all tries are under way")
    engine.going.set()
    await asyncio.gather(*tries)
    await counted(served, pairs=1)
    assert asked(engine, V1) == 1
