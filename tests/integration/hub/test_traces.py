"""Who was served by which release: the hub asks the routers and says what may be missing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.fakes.leaping_loop import leap
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.client.traces import export, missing
from loradeck.hub.views import asked_of_nodes
from loradeck.schemas.link import TRACE_ROWS, TraceRows
from loradeck.schemas.trace import Traced, TraceRow


def rows(node: str, release: str, n: int, *, first: int = 1, bad: bool = False) -> tuple[TraceRow, ...]:
    return tuple(
        TraceRow(
            seq=first + i,
            request=f"{node}-{first + i}",
            tenant="acme",
            route="production",
            release=release,
            generation=1,
            replica=node,
            admitted_mono_ns=i,
            admitted_ms=1_772_593_000_000 + i,
            finished_ms=1_772_593_000_900 + i,
            status=200,
            checked=bad,
            bad=bad,
        )
        for i in range(n)
    )


@pytest.fixture
async def agents(deck: Deck, join: Join) -> list[LinkedAgent]:
    """Two nodes that served acme's first release and then its second."""
    nodes = [await join("n1"), await join("n2")]
    await deck.tenant(min_replicas=2)
    for seed in (1, 2):
        await deck.promote(await deck.release(seed=seed))
    return nodes


async def ask(deck: Deck, query: str = "") -> Traced:
    return Traced.model_validate(await deck.ok("GET", f"tenants/acme/routes/production/traces{query}"))


async def test_every_request_of_a_release_is_found_page_by_page_on_all_nodes(
    deck: Deck, agents: list[LinkedAgent]
) -> None:
    left = await deck.release(seed=1)
    live = await deck.release(seed=2)
    many = TRACE_ROWS * 2 + 5
    agents[0].traced = rows("n1", left, many) + rows("n1", live, 3, first=many + 1)
    agents[1].traced = rows("n2", left, 2, bad=True)
    found = await ask(deck, f"?release={left}&last=20000")
    assert len(found.rows) == many + 2
    assert {row.release for row in found.rows} == {left}
    assert [row.admitted_ms for row in found.rows] == sorted(row.admitted_ms for row in found.rows)
    assert [(node.node, node.rows, node.complete) for node in found.nodes] == [("n1", many, True), ("n2", 2, True)]
    assert missing(found) == []
    text = export(found, "v1")
    assert text.count("\n") == 3 + 1 + many + 2
    assert "# no router has dropped a request" in text
    assert "n2-1\t2026-03-04T02:56:40.000Z\t200\tbad\t" in text


async def test_what_is_missing_is_said_for_each_node(
    deck: Deck, agents: list[LinkedAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_of_nodes, "ANSWER_S", 30)
    left = await deck.release(seed=1)
    agents[0].traced = rows("n1", left, TRACE_ROWS + 1)
    agents[1].traced = None
    asking, waiting = asyncio.create_task(ask(deck, f"?last={TRACE_ROWS}")), deck.hub.traces.questions._asked
    await until(lambda: [node for node, _ in waiting.values()] == ["n2"], "n1 has answered")
    leap(30)
    found = await asking
    assert found.truncated
    assert [node.why for node in found.nodes] == [f"the newest {TRACE_ROWS} were asked for", "no answer within 30 s"]
    await agents[1].leave()
    found = await ask(deck)
    assert found.nodes[1].why == "not linked"
    assert "TRUNCATED" in export(found, "v1")
    assert "#   n2: not linked" in export(found, "v1")


async def test_a_node_cannot_answer_for_another(deck: Deck, agents: list[LinkedAgent]) -> None:
    left = await deck.release(seed=1)
    node = deck.hub.fleet.nodes["n2"]
    deck.hub.traces.questions.answered(node, TraceRows(ask="nobody asked", rows=rows("n2", left, 1)))
    agents[0].traced = rows("n1", left, 1)
    assert {row.replica for row in (await ask(deck)).rows} == {"n1"}


async def test_fewer_ids_than_the_hub_counted_are_called_truncated(deck: Deck, agents: list[LinkedAgent]) -> None:
    left = await deck.release(seed=1)
    found = (await ask(deck, f"?release={left}")).model_copy(update={"counted": 7})
    assert found.truncated
    assert any("knows nothing from before" in told for told in missing(found))


async def test_a_viewer_may_ask_and_an_unknown_route_is_refused(
    deck: Deck, agents: list[LinkedAgent], data: Path
) -> None:
    viewer = await deck.as_role("viewer")
    assert (await viewer.get("tenants/acme/routes/production/traces")).status_code == 200
    assert (await viewer.get("tenants/acme/routes/nowhere/traces")).status_code == 404
    assert (await viewer.get("tenants/acme/routes/production/traces?last=0")).status_code == 422
