"""A node's own way to rows, against a real hub: they come while it holds a job on them, and at no other time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, Deck, data_folder, running
from tests.fleets.waiting import until

from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.jobs import JobRequest, TrainSpec
from loradeck.schemas.manifest import DecisionRecord
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.identity import Login
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.store.inputs import InputStore
from loradeck_agent.store.releases import ReleaseStore
from loradeck_agent.uplink.hub_api import HubApi


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    async with data_folder() as data, running(data) as deck:
        yield deck


async def test_a_node_fetches_rows_and_items_under_the_lease_of_its_job(deck: Deck, tmp_path: Path) -> None:
    await deck.tenant()
    await deck.base()
    dataset, suite = await deck.dataset(), await deck.suite()
    config = AgentConfig.model_validate(
        {
            "node": "n1",
            "hub": f"http://127.0.0.1:{deck.port}",
            "token": tmp_path / "token",
            "state": tmp_path / "state",
            "router": {"listen": "127.0.0.1:7599"},
        }
    )
    login = Login.of_token(await deck.token("agent", "n1"))
    hub, state = HubApi(config, lambda: login), StateFolder(config.state)
    for made in (state.root, state.inputs, state.releases):
        made.mkdir()
    inputs = InputStore(state, hub, ReleaseStore(state, hub))
    agent = await LinkedAgent(deck, "n1").join()
    try:
        for fetched in (inputs.dataset(dataset), inputs.suite(suite)):
            with pytest.raises(AgentError) as refused:
                await fetched
            assert refused.value.code == "forbidden"
        decision = DecisionRecord(why_weights="a test")
        spec = TrainSpec(tenant="acme", name="s", base=BASE.digest, datasets=(dataset,), decision=decision)
        job = (await deck.ok("POST", "jobs", JobRequest(spec=spec).model_dump(mode="json")))["id"]
        assigned = await until(lambda: agent.jobs.get(job), "assigned")
        assert assigned.held_out == (suite,)
        for here in (await inputs.dataset(dataset), await inputs.suite(suite)):
            assert {path.name for path in here.iterdir()} == {"file", "manifest.json"}
        await agent.say(assigned, ExecutorEventType.FAILED, code="bad_spec")
    finally:
        await agent.leave()
        hub.close()
