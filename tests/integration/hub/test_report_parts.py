"""A report that comes in parts counts once, as if it had come whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, running
from tests.fleets.waiting import until

from loradeck.hub.links.node_link import BAD_MESSAGE
from loradeck.schemas.counts import Traffic
from loradeck.schemas.link import Report
from loradeck.schemas.telemetry import NvmlState


def part(*traffic: Traffic) -> Report:
    return Report(replicas=(), router_boot="r1", traffic=traffic, nvml=NvmlState.NO_GPU, rev=0, epoch=1, more=True)


async def answered(deck: Deck) -> int:
    return (await deck.row()).minute.attempted


async def test_no_part_counts_before_the_last_and_then_each_does_once(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        node = await LinkedAgent(deck, "n1").join()
        assert node.welcome is not None
        assert node.welcome.parts
        await deck.promote(await deck.release(seed=1))
        await node.report()
        await node.send(part(node.served(attempted=60, admitted=60, finished=60)))
        await node.send(part(node.served(attempted=60, admitted=60, finished=60).model_copy(update={"tenant": "no"})))
        assert await answered(deck) == 0
        await node.report()
        await until(lambda: deck.hub.rows.tenant(("acme", "production")).minute.attempted == 60, "all of it counts")
        assert deck.hub.fleet.nodes["n1"].replicas == (node.replica,)


async def test_what_a_router_counted_before_the_hub_began_is_new_in_no_part(data: Path) -> None:
    async with running(data) as deck:
        await deck.tenant()
        node = await LinkedAgent(deck, "n1").join()
        release = await deck.release(seed=1)
        await deck.promote(release)
        await node.report(node.served(attempted=60, admitted=60, finished=60))
        await until(lambda: deck.hub.rows.tenant(("acme", "production")).minute.attempted == 60, "it counts")
        await node.leave()
    async with running(data) as deck:
        await node.rejoin(deck)
        old = node.served(attempted=90, admitted=90, finished=90)
        await node.send(part(old.model_copy(update={"tenant": "no"})))
        await node.send(part(old))
        await node.report()
        await node.report(node.served(attempted=95, admitted=95, finished=95))
        await until(lambda: deck.hub.rows.tenant(("acme", "production")).minute.attempted, "what is new counts")
        assert await answered(deck) == 5
        assert deck.hub.counts.total(("acme", "production"), release).counts.finished == 65
        await node.leave()


async def test_a_report_whose_parts_have_more_rows_than_a_report_may_have_ends_the_link(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loradeck.hub.links.node_link.COUNTERS", 100)
    async with running(data) as deck:
        await deck.tenant()
        node = await LinkedAgent(deck, "n1").join()
        await deck.promote(await deck.release(seed=1))
        for _ in range(4):
            await node.send(part(*[node.served()] * 25))
        assert node.closed is None
        await node.send(part(node.served()))
        await until(lambda: node.closed, "one row too many")
        assert node.closed == (BAD_MESSAGE, "invalid_request")
