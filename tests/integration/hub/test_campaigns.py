"""Campaigns of a running hub: waves of routes that are trained, gated, given to callers, and put back together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.linked.agent import BUILD, LinkedAgent
from tests.fleets.linked.hub import BASE, OTHER_BASE, Deck, key, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_another_base import reported as says
from tests.integration.hub.test_jobs import FINISHED, report, train

from loradeck.hub.automation import campaigns
from loradeck.rules.moves import campaigns as rules
from loradeck.schemas.campaign import Campaign, CampaignRequest, CampaignStarted, CampaignState, Stage
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.log import EventKind
from loradeck.schemas.moves import MoveResult, RewindPlan
from loradeck.store.interface import StoreError


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was tried is tried again at the next look, and a look comes soon."""
    monkeypatch.setattr(campaigns, "AGAIN_S", 0.0)
    monkeypatch.setattr("loradeck.hub.hub.TICK_S", 0.02)


def body(name: str = "to-b2", targets: list[dict[str, Any]] | None = None, **plan: Any) -> dict[str, Any]:
    asked = {"campaign": name, "plan": plan, "targets": targets or [], "idempotency_key": key()}
    return CampaignRequest.model_validate(asked).model_dump(mode="json")


async def start(deck: Deck, *args: Any, **plan: Any) -> CampaignStarted:
    return CampaignStarted.model_validate(await deck.ok("POST", "campaigns", body(*args, **plan)))


def stages(deck: Deck, name: str = "to-b2") -> dict[str, str]:
    units = deck.hub.campaigns.get(name).units
    return {unit.tenant: unit.stage.value for unit in units.values()}


async def rewind(deck: Deck, name: str = "to-b2", **said: Any) -> tuple[RewindPlan, MoveResult]:
    plan = RewindPlan.model_validate(await deck.ok("POST", f"campaigns/{name}/rewind", {"idempotency_key": key()}))
    at = {f"{step.tenant}/{step.route}": step.generation for step in plan.steps}
    done = {"idempotency_key": key(), "dry_run": False, "generations": at, **said}
    result = await deck.ok("POST", f"campaigns/{name}/rewind?wait=proven&timeout=60", done)
    return plan, MoveResult.model_validate(result)


async def two_live(deck: Deck, join: Join, *names: str) -> tuple[LinkedAgent, dict[str, tuple[str, str]]]:
    """Tenants on their v1, with v2 registered, on one node."""
    agent, found = await join("n1", slots=16), {}
    for name in names:
        await deck.tenant(name)
        found[name] = await deck.release(name, 1), await deck.release(name, 2)
        await deck.promote(found[name][0], name)
    return agent, found


def prepares(agent: LinkedAgent, release: str) -> list[Any]:
    return [job for job in agent.jobs.values() if job.spec.kind == "prepare" and job.spec.release == release]


def to(releases: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"tenant": name, "release": two} for name, (_, two) in releases.items()]


async def test_a_route_is_trained_on_the_new_base_gated_moved_and_put_back_with_proof(deck: Deck, join: Join) -> None:
    await deck.tenant()
    suite = await deck.suite()
    await deck.base()
    await deck.base(OTHER_BASE)
    agent = await join("n1")
    trained = await train(deck)
    assigned = await until(lambda: agent.jobs.get(trained["id"]), "trained at first")
    version = await deck.ok(
        "POST", "adapters/acme/support/versions", (await deck.adapter_manifest()).model_dump(mode="json")
    )
    await agent.say(assigned, FINISHED, {"adapter": version["digest"], "release": version["release"]})
    await until(lambda: deck.hub.jobs.get(trained["id"]).ended_ms, "over")  # type: ignore[union-attr]
    await deck.promote(version["release"])
    base = {"base": OTHER_BASE.digest}
    none = await deck.ok("POST", "campaigns", body(**base) | {"dry_run": True})
    assert none["left_out"] == {"acme/production": "its route has no gate"}
    await deck.tenant(gate=GateConfig(suite=suite, max_drop=1).model_dump(mode="json"))
    begun = await start(deck, **base)
    assert (begun.campaign.units["acme/production"].recipe, begun.left_out) == (trained["id"], {})
    await says(deck, agent, base=OTHER_BASE.digest)  # the node has an engine of the new base
    again = await until(lambda: [j for j in agent.jobs.values() if j.spec.kind == "train"][1:], "trained again")
    assert again[0].spec == assigned.spec.model_copy(update={"base": OTHER_BASE.digest})
    manifest = await deck.adapter_manifest(seed=2, base=OTHER_BASE)
    after = await deck.ok("POST", "adapters/acme/support/versions", manifest.model_dump(mode="json"))
    await agent.say(again[0], FINISHED, {"adapter": after["digest"], "release": after["release"]})
    asked = await until(lambda: [j for j in agent.jobs.values() if j.spec.kind == "evaluate"], "evaluated")
    await agent.say(asked[0], FINISHED, {"report": report(after["release"], suite, 20), "canary": None})
    await until(lambda: deck.hub.campaigns.get("to-b2").state is CampaignState.DONE, "moved")
    assert (await deck.row()).live.id == after["release"]  # type: ignore[union-attr]
    events = await deck.ok("GET", "events?tenant=acme&limit=20")
    stations = [e["payload"]["unit"]["stage"] for e in events if e["kind"] == "campaign"]
    assert stations == ["moved", "canary", "gating", "training"]
    await says(deck, agent, base=BASE.digest)
    plan, result = await rewind(deck, reason="B2 is slow")
    assert [(step.from_release, step.to_release) for step in plan.steps] == [(after["release"], version["release"])]
    assert (result.reached, [e.kind for e in result.events]) == ("proven", [EventKind.REWIND, EventKind.CAMPAIGN])
    assert deck.hub.campaigns.get("to-b2").state is CampaignState.REWOUND
    assert (await deck.row()).live.id == version["release"]  # type: ignore[union-attr]


async def test_waves_outlive_the_hub_and_all_routes_go_back_in_one_call_but_those_moved_since(
    data: Path,
) -> None:
    async with running(data) as deck:
        agent = LinkedAgent(deck, "n1", slots=16)

        async def join(*_: Any, **__: Any) -> LinkedAgent:
            return await agent.join()

        _, releases = await two_live(deck, join, "acme", "bolt", "cove")
        agent.prepares = "hold"
        await start(deck, "to-b2", to(releases), wave=2, ungated=True)
        await until(lambda: deck.hub.campaigns._starting, "the first wave is being prepared")
        assert stages(deck) == {"acme": "gating", "bolt": "gating", "cove": "waiting"}
    async with running(data) as deck:
        agent.prepares = "finish"
        await agent.rejoin(deck)
        await until(lambda: deck.hub.campaigns.get("to-b2").state is CampaignState.DONE, "moved")
        one = deck.hub.campaigns.get("to-b2")
        assert [unit.wave for unit in one.units.values()] == [1, 1, 2]
        await deck.rollback("cove")  # somebody does not like it
        plan, result = await rewind(deck)
        assert [step.tenant for step in plan.steps] == ["acme", "bolt"]
        assert result.reached == "proven"
        undone = await deck.ok("POST", "undo", {"txn": result.events[0].txn, "idempotency_key": key()})
        assert [event["kind"] for event in undone["events"]] == ["undo", "undo"]
        await deck.ok("POST", "undo", {"txn": undone["events"][0]["txn"], "confirmed": True, "idempotency_key": key()})
        live = {name: (await deck.row(name)).live for name in releases}
        assert {name: view.id for name, view in live.items() if view} == {n: one for n, (one, _) in releases.items()}
        await agent.leave()


async def test_a_campaign_whose_first_routes_fail_stops_and_takes_back_what_is_out(deck: Deck, join: Join) -> None:
    _, releases = await two_live(deck, join, "acme", "bolt", "cove", "dune")
    steps = {"steps": [500], "margin": 0.02, "finish": True}
    await start(deck, "to-b2", to(releases), wave=3, steps=steps, ungated=True)
    await until(lambda: list(stages(deck).values()).count("canary") == 3, "the first wave is out")
    for name in ("acme", "bolt"):
        await deck.rollback(name)
    await until(lambda: deck.hub.campaigns.get("to-b2").state is CampaignState.STOPPED, "stopped")
    assert deck.hub.campaigns.get("to-b2").why == "2 of 2 routes have failed: surely more than 10 %"
    await until(lambda: stages(deck)["cove"] == "held", "taken back")
    assert stages(deck) == {"acme": "failed", "bolt": "failed", "cove": "held", "dune": "waiting"}
    pointer = deck.hub.log.state.pointer(("cove", "production"))
    assert (pointer.release, pointer.candidate) == (releases["cove"][0], None)
    change = {"idempotency_key": key()}
    await deck.refused(409, "campaign_over", "POST", "campaigns/to-b2/resume", change)


async def test_a_hold_keeps_a_route_back_and_a_pause_the_campaign(deck: Deck, join: Join) -> None:
    _, releases = await two_live(deck, join, "acme", "bolt")
    held = {"held": True, "expected_generation": 1, "idempotency_key": key(), "reason": "an audit"}
    await deck.ok("POST", "tenants/acme/routes/production/hold", held)
    await start(deck, "to-b2", to(releases), wave=1, ungated=True)
    await until(lambda: stages(deck) == {"acme": "held", "bolt": "moved"}, "its wave goes on without it")
    assert "is held" in deck.hub.campaigns.get("to-b2").units["acme/production"].why
    paused = Campaign.model_validate(await deck.ok("POST", "campaigns/to-b2/pause", {"idempotency_key": key()}))
    assert paused.state is CampaignState.PAUSED
    clear = held | {"held": False, "idempotency_key": key()}
    await deck.ok("POST", "tenants/acme/routes/production/hold", clear)
    await deck.ok("POST", "campaigns/to-b2/resume", {"idempotency_key": key()})
    await until(lambda: stages(deck)["acme"] == Stage.MOVED.value, "it goes on")


async def test_nodes_are_drained_take_a_new_engine_build_and_serve_again_in_waves(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "PROVE_MS", 0)
    await deck.tenant()
    first, second = await join("n1"), await join("n2")
    await deck.promote(await deck.release(seed=1))
    asked = body("vllm", engine="fake 2", wave=2)  # one after the other all the same: acme is on these two alone
    begun = CampaignStarted.model_validate(await deck.ok("POST", "campaigns", asked))
    assert list(begun.campaign.units) == ["fleet/n1", "fleet/n2"]
    fleet = deck.hub.fleet.nodes
    for agent, other in ((first, second), (second, first)):
        await until(lambda agent=agent: fleet[agent.name].drained, "drained")
        assert not fleet[other.name].drained
        await says(deck, agent, build=BUILD.model_copy(update={"engine": "fake 2"}))
        await until(lambda agent=agent: not fleet[agent.name].drained, "it serves again")
    await until(lambda: deck.hub.campaigns.get("vllm").state is CampaignState.DONE, "moved")
    again = await deck.ok("POST", "campaigns", body("again", engine="fake 2") | {"dry_run": True})
    assert again["left_out"] == dict.fromkeys(("n1", "n2"), "its engines have that build already")
    await deck.refused(404, "unknown_node", "POST", "campaigns", body("again", engine="x") | {"nodes": ["n9"]})
    await deck.ok("POST", "nodes/n1/cordon")
    third = await deck.ok("POST", "campaigns", body("third", engine="fake 3") | {"dry_run": True})
    assert third["left_out"] == {"n1": "it is cordoned, and would be let in again: uncordon it first"}


async def test_what_a_campaign_may_not_begin_is_refused_or_left_out(deck: Deck, join: Join) -> None:
    _, releases = await two_live(deck, join, "acme")
    dry = body(base=BASE.digest) | {"dry_run": True}
    assert (await deck.ok("POST", "campaigns", dry))["left_out"] == {"acme/production": "it is on that base already"}
    await deck.refused(409, "nothing_to_move", "POST", "campaigns", body(base=BASE.digest))
    await deck.refused(404, "unknown_base", "POST", "campaigns", body(base="f" * 64))
    await deck.refused(404, "unknown_campaign", "GET", "campaigns/none")
    await deck.refused(403, "forbidden", "POST", "campaigns", dry, client=await deck.as_role("operator"))
    await start(deck, "to-b2", to(releases), ungated=True)
    await until(lambda: deck.hub.campaigns.get("to-b2").state is CampaignState.DONE, "moved")
    await deck.tenant("bolt")
    scoped = {"name": "bolts", "role": "releaser", "tenants": {"bolt": "releaser"}}
    client = deck.with_token((await deck.ok("POST", "tokens", scoped))["token"])
    assert await deck.ok("GET", "campaigns", client=client) == []
    await deck.refused(404, "unknown_campaign", "GET", "campaigns/to-b2", client=client)
    await deck.refused(404, "unknown_campaign", "POST", "campaigns/to-b2/pause", {"idempotency_key": key()}, client)
    await deck.refused(403, "forbidden", "POST", "campaigns", body("x", to(releases), ungated=True), client)
    drains = body("x", [{"tenant": "bolt"}], engine="fake 2")  # nodes are not bolt's
    await deck.refused(403, "forbidden", "POST", "campaigns", drains, client)
    await deck.refused(409, "campaign_exists", "POST", "campaigns", body(base=BASE.digest))


async def test_of_two_campaigns_that_begin_at_the_same_moment_one_gets_the_name_and_the_routes(
    deck: Deck, join: Join
) -> None:
    _, releases = await two_live(deck, join, "acme")
    twice = ("to-b2", "to-b2", "again")
    async with deck.hub.log.moving:
        asked = asyncio.gather(
            *(deck.local.post("campaigns", json=body(name, to(releases), ungated=True)) for name in twice)
        )
        await until(lambda: len(deck.hub.log.moving._waiters or ()) == len(twice), "all are planned")
    codes = [answer.json().get("code") for answer in await asked]
    assert sorted(map(str, codes)) == ["None", "campaign_exists", "campaign_exists"]


async def test_a_route_that_asks_for_people_meanwhile_is_held_and_what_r_has_cancelled_is_not_done_again(
    deck: Deck, join: Join
) -> None:
    agent, releases = await two_live(deck, join, "acme", "bolt")
    agent.prepares = "hold"
    await start(deck, "to-b2", to(releases), ungated=True)
    await until(lambda: len(deck.hub.campaigns._starting) == 2, "both are being prepared")
    prepared = await until(lambda: prepares(agent, releases["acme"][1]), "the node is told")
    await deck.tenant("acme", controls={"tickets": True})
    await agent.say(prepared[0], FINISHED)
    await deck.rollback("bolt", wait="committed")
    await until(lambda: stages(deck) == {"acme": "held", "bolt": "failed"}, "held, and taken back")
    assert "for tickets" in deck.hub.campaigns.get("to-b2").units["acme/production"].why
    assert deck.hub.log.state.pointer(("acme", "production")).release == releases["acme"][0]


async def test_a_rewind_leaves_what_somebody_has_moved_there_and_back_since(deck: Deck, join: Join) -> None:
    _, releases = await two_live(deck, join, "acme", "bolt")
    await start(deck, "to-b2", to(releases), ungated=True)
    await until(lambda: deck.hub.campaigns.get("to-b2").state is CampaignState.DONE, "moved")
    await deck.promote(await deck.release("acme", 3), "acme")
    await deck.promote(releases["acme"][1], "acme")
    plan, _ = await rewind(deck)
    assert [step.tenant for step in plan.steps] == ["bolt"]


async def test_what_is_taken_back_before_the_campaign_has_noted_it_is_not_given_again(deck: Deck, join: Join) -> None:
    agent, releases = await two_live(deck, join, "acme")
    agent.prepares, own = "hold", deck.hub.campaigns
    await start(deck, "to-b2", to(releases), ungated=True)
    prepared = await until(lambda: prepares(agent, releases["acme"][1]), "it is being prepared")
    await until(lambda: own._starting and not own._acting, "that is known to the campaign")
    own._acting = True  # as a hub that has just taken over, and may not move forward yet
    await agent.say(prepared[0], FINISHED)
    pointer = deck.hub.log.state.pointer
    await until(lambda: pointer(("acme", "production")).release == releases["acme"][1], "moved")
    undo = {"event": pointer(("acme", "production")).last_move, "idempotency_key": key()}
    await deck.ok("POST", "tenants/acme/routes/production/undo", undo)
    agent.prepares, own._acting = "finish", False
    await until(lambda: stages(deck) == {"acme": "failed"}, "taken back")
    assert pointer(("acme", "production")).release == releases["acme"][0]


async def test_what_somebody_promotes_before_a_campaign_has_come_to_it_stays(deck: Deck, join: Join) -> None:
    _, releases = await two_live(deck, join, "acme", "bolt")
    deck.hub.campaigns._acting = True  # as one that trains for hours
    await start(deck, "to-b2", to(releases), ungated=True)
    fix = await deck.release("acme", 3)
    await deck.promote(fix, "acme")
    deck.hub.campaigns._acting = False
    await until(lambda: stages(deck) == {"acme": "aside", "bolt": "moved"}, "left aside")
    one = deck.hub.campaigns.get("to-b2")
    assert (one.state, one.why) == (CampaignState.DONE, "1 moved, 0 failed, 1 left aside")
    assert one.units["acme/production"].why.startswith("somebody else has moved it: promote by ")
    assert deck.hub.log.state.pointer(("acme", "production")).release == fix
    plan, _ = await rewind(deck)
    assert [step.tenant for step in plan.steps] == ["bolt"]


async def test_a_training_that_cannot_be_cancelled_keeps_its_route_in_the_campaign_until_it_is(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deck.tenant()
    await deck.base()
    await deck.base(OTHER_BASE)
    agent = await join("n1")
    trained = await train(deck)
    assigned = await until(lambda: agent.jobs.get(trained["id"]), "trained at first")
    manifest = (await deck.adapter_manifest()).model_dump(mode="json")
    version = await deck.ok("POST", "adapters/acme/support/versions", manifest)
    await agent.say(assigned, FINISHED, {"adapter": version["digest"], "release": version["release"]})
    await until(lambda: deck.hub.jobs.get(trained["id"]).ended_ms, "over")  # type: ignore[union-attr]
    await deck.promote(version["release"])
    await start(deck, base=OTHER_BASE.digest, ungated=True)
    await says(deck, agent, base=OTHER_BASE.digest)
    again = await until(lambda: [j for j in agent.jobs.values() if j.spec.kind == "train"][1:], "trained again")
    await says(deck, agent, base=BASE.digest)
    cancel, tried = deck.hub.queue.cancel, list[str]()

    async def refuses(job: str, by: str) -> None:
        tried.append(job)
        raise StoreError("the disk is away")

    monkeypatch.setattr(deck.hub.queue, "cancel", refuses)
    await deck.promote(await deck.release("acme", 3), "acme")
    await until(lambda: len(tried) > 2, "it is tried again and again")
    assert stages(deck) == {"acme": "training"}
    assert deck.hub.campaigns.get("to-b2").state is CampaignState.RUNNING
    monkeypatch.setattr(deck.hub.queue, "cancel", cancel)
    await until(lambda: stages(deck) == {"acme": "aside"}, "left aside")
    await until(lambda: again[0].id not in agent.jobs, "its node was told to end it")


async def test_a_list_of_campaigns_can_be_asked_for_what_has_changed_alone(deck: Deck, join: Join) -> None:
    _, releases = await two_live(deck, join, "acme", "bolt", "cedar")
    deck.hub.campaigns._acting = True
    for name in ("acme", "bolt"):
        await start(deck, f"of-{name}", to({name: releases[name]}), ungated=True)

    async def listed(since: int | None = None, by: Any = None) -> dict[str, int]:
        found = await deck.ok("GET", "campaigns" + ("" if since is None else f"?since={since}"), client=by)
        return {one["campaign"]: one["rev"] for one in found}

    revs = await listed()
    assert [*revs] == ["of-bolt", "of-acme"]
    assert revs["of-bolt"] == deck.hub.log.state.rev
    assert await listed(revs["of-bolt"]) == {}
    await deck.ok("POST", "campaigns/of-acme/pause", {"idempotency_key": key()})
    assert await listed(revs["of-bolt"]) == {"of-acme": deck.hub.log.state.rev}
    assert [*await listed(by=await deck.client_of("viewer", "bolt"))] == ["of-bolt"]
