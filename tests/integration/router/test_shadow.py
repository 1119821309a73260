"""A candidate in the shadow of the live release: asked what callers ask, behind them, and nobody gets its answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.fleets.waiting import PATIENCE_S, until
from tests.integration.router.running import Running, entry, pin, release
from tests.integration.router.test_asked_again import asked, counted, models
from tests.integration.router.upstream import Upstream

from loradeck.schemas.table import CandidateRef, ResponseChecks, TableEntry
from loradeck_agent.router import asked_again

V1, V2 = release("v1"), release("v2")
ALL = 1000
CHECKS = ResponseChecks(refusals=("no",))


def shadowed(permille: int = ALL, *, generation: int = 2, step: int = 0, **fields: Any) -> TableEntry:
    split = {"generation": generation, "step": step, "permille": permille, "salt": "a-salt-of-16-chr", "shadow": True}
    candidate = CandidateRef(release=V2, **split)
    return entry(V1, generation, candidate=candidate, needs=("candidate",), checks=CHECKS, **fields)


@pytest.fixture(params=["candidate", "live"])
def arm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who is asked again: what chance decides elsewhere."""
    monkeypatch.setattr(asked_again.random, "random", lambda: 0.99 if request.param == "candidate" else 0.0)
    return str(request.param)


@pytest.fixture
async def served(router: Running, engine: Upstream, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr(asked_again, "PATIENCE_S", PATIENCE_S)
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    await router.post("/control/hub", {"connected": True})
    await router.table(shadowed())
    return router


async def test_it_is_asked_behind_the_caller_who_gets_the_live_answer(
    served: Running, engine: Upstream, arm: str
) -> None:
    answer = await served.ask(stream=True)
    assert (answer.headers["x-loradeck-release"], answer.text) == (V1.id, f"e0:{V1.engine_name}")
    other, field = (V2, "again") if arm == "candidate" else (V1, "noise")
    again = await counted(served, field, pairs=1)
    assert models(engine) == [V1.engine_name, other.engine_name]
    assert (engine.seen[0].get("stream"), engine.seen[1].get("stream")) == (True, None)
    assert (again["release"], again["asked"], again["checked"], again["bad"]) == (other.id, 1, 1, [0, 0])
    (counter,) = [row for row in await served.stats() if row["generation"] == 2]
    assert (counter["release"], counter["attempted"], counter["checked"]) == (V1.id, 1, 1)
    assert counter["tokens"] > 256, "as limits count them: an answer's, and the body's"
    assert [row["release"] for row in await served.trace(1)] == [V1.id]


async def test_both_answers_go_through_the_same_checks(served: Running, arm: str) -> None:
    await served.ask(answer="no", also={"user": "ann"})  # the engine of these tests says it under either model
    await served.ask(answer="yes", also={"user": "bob"})
    again = await counted(served, "again" if arm == "candidate" else "noise", pairs=2)
    assert (again["checked"], again["bad"]) == (2, [1, 1])


async def test_it_is_shed_first_while_requests_wait_in_the_engine(
    served: Running, engine: Upstream, arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_again, "PATIENCE_S", 0.3)
    engine.waiting = 3
    assert (await served.ask()).status == 200
    again = await counted(served, "again" if arm == "candidate" else "noise", shed=1)
    assert (again["asked"], again["pairs"]) == (0, 0)
    assert models(engine) == [V1.engine_name]


@pytest.mark.parametrize("arm", ["candidate"], indirect=True)
@pytest.mark.parametrize("why", ["abort", "no share", "unloaded", "pin", "finish"])
async def test_it_ends_at_once_with_the_shadow(served: Running, engine: Upstream, arm: str, why: str) -> None:
    engine.going.clear()
    asking = asyncio.create_task(served.ask())
    await until(lambda: asked(engine, V1) == asked(engine, V2) == 1)
    match why:
        case "abort":
            await served.table(entry(V1, 3))
        case "no share":  # also where the tenant's consent has ended
            await served.table(shadowed(0))
        case "unloaded":
            await served.engines(("e0", engine.socket, [V1]))
        case "pin":
            await served.post("/control/pin", pin(V1, (1, 2)).model_dump(mode="json"))
        case "finish":
            await served.table(entry(V2, 3))
    await until(lambda: engine.dropped == 1)
    engine.going.set()
    assert (await asking).headers["x-loradeck-release"] == V1.id
    if why != "finish":
        await served.ask(also={"user": "bob"})
        assert asked(engine, V2) == 1


@pytest.mark.parametrize("arm", ["candidate"], indirect=True)
async def test_nothing_is_asked_without_a_hub_of_a_share_or_a_second_time(
    served: Running, engine: Upstream, arm: str
) -> None:
    for _ in range(2):
        await served.ask()
    await counted(served, "again", pairs=1)
    await served.table(shadowed(500, step=1))  # what is drawn lies beyond it
    await served.ask(also={"user": "a"})
    await served.post("/control/hub", {"connected": False, "silent_s": 1})
    await served.table(shadowed(step=2))
    await served.ask(also={"user": "b"})
    assert models(engine).count(str(V2.engine_name)) == 1


async def test_it_answers_no_caller_whatever_its_share(served: Running, engine: Upstream) -> None:
    answers = [await served.ask(also={"user": f"user-{n}"}) for n in range(40)]
    assert {answer.headers["x-loradeck-release"] for answer in answers} == {V1.id}


@pytest.mark.parametrize("arm", ["candidate"], indirect=True)
async def test_a_request_that_any_release_would_fail_on_speaks_against_nobody(served: Running, arm: str) -> None:
    await served.ask(hostile=500, also={"user": "ann"})  # from every model: the request is at fault
    await served.ask(also={"user": "eve"})
    assert (await counted(served, asked=2, pairs=1))["failed"] == [0, 0]
