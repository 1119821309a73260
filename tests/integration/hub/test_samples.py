"""Samples of answers at a hub: whose consent they need, who reads them, what is audited, and what a node may say."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_moves import ROUTE

from loradeck.hub.views import asked_of_nodes
from loradeck.schemas.link import SampleAsk, SampleRows
from loradeck.schemas.log import EventKind
from loradeck.schemas.trace import SAMPLE_CHARS, Sample, Sampled
from loradeck.store.interface import DiskFull

READ = f"{ROUTE}/samples"


def kept(release: str, n: int = 1, **fields: Any) -> Sample:
    said = {"tenant": "acme", "route": "production", "release": release, "at_ms": n, "fault": "schema"}
    return Sample.model_validate({"request": f"r{n}", "question": "user: hi", "answer": "no", **said, **fields})


async def keep(deck: Deck, hours: int = 24) -> None:
    policy = (await deck.ok("GET", "tenants/acme"))["data"]
    await deck.ok("PUT", "tenants/acme/data-policy?reason=they+agreed", {**policy, "sample_hours": hours})


@pytest.fixture
async def agents(deck: Deck, join: Join) -> list[LinkedAgent]:
    """Two nodes that serve acme, whose samples are kept."""
    nodes = [await join("n1"), await join("n2")]
    await deck.tenant(min_replicas=2)
    await deck.promote(await deck.release(seed=1))
    await keep(deck)
    return nodes


async def live(deck: Deck) -> str:
    return await deck.release(seed=1)


async def readings(deck: Deck) -> list[dict[str, Any]]:
    return [line for line in await deck.ok("GET", "audit") if line["call"] == asked_of_nodes.READING]


async def test_nodes_are_told_of_the_consent_and_of_its_end(deck: Deck, agents: list[LinkedAgent]) -> None:
    await until(lambda: agents[0].entry.sample_hours == 24, "the node keeps samples")
    assert deck.hub.log.state.rev
    event = (await deck.ok("GET", "events?tenant=acme&limit=1"))[0]
    assert (event["kind"], event["payload"]["loosened"]) == (EventKind.DATA_POLICY, ["sample_hours"])
    await keep(deck, hours=0)
    await until(lambda: not agents[0].entry.sample_hours, "it keeps none any more")
    refused = await deck.refused(409, "samples_not_kept", "GET", READ)
    assert "loradeck tenant data acme --sample-hours" in refused.fix


async def test_an_offboarded_tenants_samples_go_too(deck: Deck, agents: list[LinkedAgent]) -> None:
    await deck.ok("POST", "tenants/acme/offboard", {"reason": "gone"})
    await until(lambda: agents[0].entry.current is None, "a tombstone")
    assert not agents[0].entry.sample_hours
    await deck.refused(409, "samples_not_kept", "GET", READ)


async def test_to_have_them_kept_or_kept_longer_takes_a_reason(deck: Deck) -> None:
    await deck.tenant()
    await deck.refused(422, "reason_required", "PUT", "tenants/acme/data-policy", {"sample_hours": 24})
    await keep(deck, hours=24)
    await deck.refused(422, "reason_required", "PUT", "tenants/acme/data-policy", {"sample_hours": 25})
    await deck.ok("PUT", "tenants/acme/data-policy", {"sample_hours": 1})
    await deck.refused(422, "invalid_request", "PUT", "tenants/acme/data-policy?reason=x", {"sample_hours": 169})


async def test_a_releaser_reads_them_and_each_reading_is_audited(deck: Deck, agents: list[LinkedAgent]) -> None:
    release = await live(deck)
    agents[0].sampled = lambda ask: SampleRows(ask=ask.ask, samples=(kept(release, 1), kept(release, 3)), kept=7)
    agents[1].sampled = lambda ask: SampleRows(ask=ask.ask, samples=(kept(release, 2),), kept=1)
    releaser = await deck.as_role("releaser")
    found = Sampled.model_validate(await deck.ok("GET", f"{READ}?release={release}", client=releaser))
    assert [(row.request, row.node) for row in found.rows] == [("r1", "n1"), ("r2", "n2"), ("r3", "n1")]
    assert [(node.node, node.kept, node.why) for node in found.nodes] == [("n1", 7, ""), ("n2", 1, "")]
    (line,) = await readings(deck)
    assert (line["actor"], line["role"]) == ("releaser", "releaser")
    subject = {"tenant": "acme", "route": "production", "release": release, "samples": "3", "nodes": "n1 n2"}
    assert line["subject"] == subject
    assert "user: hi" not in str(await deck.ok("GET", "audit"))


async def test_nobody_below_a_releaser_and_nobody_of_another_tenant_reads_any(
    deck: Deck, agents: list[LinkedAgent]
) -> None:
    asked: list[SampleAsk] = []
    for agent in agents:
        agent.sampled = asked.append  # type: ignore[assignment]
    for role in ("viewer", "operator"):
        await deck.refused(403, "forbidden", "GET", READ, client=await deck.as_role(role))
    await deck.ok("POST", "tenants", {"name": "other"})
    theirs = await deck.client_of("releaser", "other")
    await deck.refused(403, "forbidden", "GET", READ, client=theirs)
    assert not asked
    assert not await readings(deck)


async def test_a_node_shows_nothing_that_it_was_not_asked_for(deck: Deck, agents: list[LinkedAgent]) -> None:
    release, other = await live(deck), await deck.release(seed=2)
    foreign = (kept(release, 1, tenant="bolt"), kept(other, 2), kept(release, 3, route="chat"), kept(release, 4))
    agents[0].sampled = lambda ask: SampleRows(ask=ask.ask, samples=foreign, kept=4)
    agents[1].sampled = lambda ask: SampleRows(ask="nobody asked", samples=(kept(release, 9),), kept=1)
    deck.hub.samples.questions.answered(deck.hub.fleet.nodes["n2"], SampleRows(ask="nobody asked"))
    await agents[1].leave()
    found = Sampled.model_validate(await deck.ok("GET", f"{READ}?release={release}"))
    assert [row.request for row in found.rows] == ["r4"]
    assert [node.why for node in found.nodes] == ["it sent samples that were not asked for", "not linked"]


async def test_a_node_that_says_too_much_loses_its_link(
    deck: Deck, agents: list[LinkedAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_of_nodes, "ANSWER_S", 0.2)
    huge = kept(await live(deck)).model_copy(update={"answer": "x" * (SAMPLE_CHARS + 1)})
    agents[0].sampled = lambda ask: SampleRows.model_construct(ask=ask.ask, samples=(huge,), kept=1)
    found = Sampled.model_validate(await deck.ok("GET", READ))
    assert [node.why for node in found.nodes] == ["no answer within 0.2 s"] * 2
    await until(lambda: agents[0].closed, "its link is closed")


async def test_nothing_is_given_out_that_cannot_be_audited(
    deck: Deck, agents: list[LinkedAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(draft: object) -> int:
        raise DiskFull("the disk is full")

    release = await live(deck)
    for agent in agents:
        agent.sampled = lambda ask: SampleRows(ask=ask.ask, samples=(kept(release),), kept=1)
    monkeypatch.setattr(deck.hub.audit, "write", full)
    await deck.refused(507, "disk_full", "GET", READ)


async def test_an_incidents_report_says_how_many_there_are_and_no_more(deck: Deck, agents: list[LinkedAgent]) -> None:
    release = await live(deck)
    asked: list[SampleAsk] = []

    def said(ask: SampleAsk) -> SampleRows:
        asked.append(ask)
        return SampleRows(ask=ask.ask, kept=4)

    for agent in agents:
        agent.sampled = said
    body = {"pointers": [{"tenant": "acme", "route": "production"}], "reason": "bad", "idempotency_key": "k" * 16}
    opened = await deck.ok("POST", "incidents", body)
    viewer = await deck.as_role("viewer")
    report = await deck.ok("GET", f"incidents/{opened['events'][0]['incident']}", client=viewer)
    assert report["samples"] == 8
    assert [(ask.release, ask.last) for ask in asked] == [(release, 0)] * 2
