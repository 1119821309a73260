"""A route's judge is asked behind callers and within its budget, and its word makes no answer bad."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tests.fleets.waiting import PATIENCE_S
from tests.integration.router.running import Running, entry, release
from tests.integration.router.upstream import Upstream

from loradeck.schemas.judge import Judge
from loradeck.schemas.table import TableEntry
from loradeck_agent.router import judges

V1, V2 = release("v1"), release("v2")


def judged(generation: int = 1, **fields: Any) -> TableEntry:
    """acme on v1, all of whose answers are judged."""
    settings = {"rubric": "It is polite.", "sample": 1.0, "per_minute": 100, "timeout_s": 20}
    ref = fields.pop("ref", None)
    return entry(V1, generation, judge=Judge.model_validate(settings | fields), judge_release=ref)


@pytest.fixture
async def served(router: Running, engine: Upstream, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr(judges, "PATIENCE_S", PATIENCE_S)
    await router.engines(("e0", engine.socket, [V1]))
    await router.post("/control/hub", {"connected": True})
    await router.table(judged())
    return router


async def counted(router: Running, **figures: int) -> dict[str, Any]:
    """The only counter that was judged, once what came of it is this."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = [row for row in await router.stats() if row.get("judged")]
        if [row["judged"] for row in found] == [figures]:
            return found[0]
        assert time.monotonic() < deadline, found


@pytest.mark.parametrize(
    ("says", "what", "noticed"),
    [("PASS", "passed", None), ("FAIL", "failed", {"judge": 1}), ("It does not: FAIL", "unclear", None)],
)
async def test_its_word_is_counted_with_its_n_and_makes_nothing_bad(
    served: Running, engine: Upstream, says: str, what: str, noticed: dict[str, int] | None
) -> None:
    engine.says = says
    await served.ask(answer="Get lost.", stream=True)
    counter = await counted(served, **{what: 1})
    assert (counter["release"], counter["checked"], counter["bad"]) == (V1.id, 1, 0)
    assert counter.get("noticed") == noticed
    ((_, asked_of, failed),) = counter["asked_votes"]["judge"]
    assert (asked_of, failed) == (1, int(what == "failed"))
    assert [row["judge"] for row in await served.trace(1)] == [what]
    asked = engine.seen[1]
    assert (asked["model"], asked["temperature"], asked.get("stream")) == ("base", 0, None)
    said = json.loads(asked["messages"][0]["content"].rpartition("\n\n")[2])
    assert said == {"question": "user: hello", "answer": "Get lost."}
    assert "It is polite." in asked["messages"][0]["content"]


async def test_callers_come_first(served: Running, engine: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "PATIENCE_S", 0.2)
    engine.waiting = 3
    await served.ask()
    assert (await counted(served, shed=1)).get("noticed") is None
    assert len(engine.seen) == 1


async def test_its_budget_of_a_minute_is_kept(served: Running, engine: Upstream) -> None:
    engine.says = "PASS"
    await served.table(judged(2, per_minute=1))
    for answer in ("one", "two", "three"):
        await served.ask(answer=answer)
        await counted(served, passed=1)
    assert [body["model"] for body in engine.seen].count("base") == 1


async def test_nobody_is_asked_while_models_have_had_their_time(served: Running, engine: Upstream) -> None:
    assert served.here is not None
    served.here._model_time.charge(100.0, of_plugin=False)
    await served.ask(answer="one")
    assert (await served.trace(1))[0]["checked"]
    assert len(engine.seen) == 1


async def test_another_release_judges_where_it_is_loaded(
    served: Running, engine: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.says = "PASS"
    await served.table(judged(2, ref=V2, release=V2.id))
    monkeypatch.setattr(judges, "PATIENCE_S", 0.2)
    await served.ask(answer="one")
    await counted(served, shed=1)
    monkeypatch.setattr(judges, "PATIENCE_S", PATIENCE_S)
    await served.engines(("e0", engine.socket, [V1, V2]))
    await served.ask(answer="two")
    await counted(served, shed=1, passed=1)
    assert engine.seen[-1]["model"] == V2.engine_name
    engine.unloaded = {str(V2.engine_name)}
    await served.ask(answer="three")
    await counted(served, shed=1, passed=1, unclear=1)


async def test_another_tenants_release_judges_nothing(served: Running) -> None:
    theirs = release("v1", tenant="other")
    (ack,) = await served.table(judged(2, ref=theirs, release=theirs.id))
    assert (ack["state"], ack["code"]) == ("failed", "bad_entry")


async def test_a_router_that_has_handed_over_judges_nothing(served: Running, engine: Upstream) -> None:
    assert served.here is not None
    served.here._judges.hand_over()
    await served.ask(answer="one")
    assert (await served.trace(1))[0]["checked"]
    assert len(engine.seen) == 1


async def test_without_its_hub_a_node_judges_nothing(served: Running, engine: Upstream) -> None:
    await served.post("/control/hub", {"connected": False, "silent_s": 30})
    await served.ask(answer="one")
    assert (await served.trace(1))[0]["checked"]
    assert len(engine.seen) == 1
