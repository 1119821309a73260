"""A token that is for one tenant gets nothing of another: rows, feed, events, jobs, data, weights, metrics, moves."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.routing import APIRoute
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, OTHER_BASE, PROVENANCE, Deck, data_folder, key, running
from tests.fleets.waiting import until
from websockets.asyncio.client import connect

from loradeck.hub.access.auth import Allowed
from loradeck.hub.app import RESOURCES
from loradeck.schemas.feed import FeedEvents, FeedTenants, feed_adapter
from loradeck.schemas.ids import Resource, Role
from loradeck.schemas.jobs import EvaluateSpec, JobRequest, TrainSpec
from loradeck.schemas.manifest import DatasetManifest, DecisionRecord, SuiteManifest
from loradeck.schemas.state import HubState

PEOPLE = ("viewer", "operator", "releaser")
OURS, THEIRS = "acme", "zeta"


@dataclass
class Fleet:
    """One node with two tenants on it, and what the other tenant has."""

    deck: Deck
    agent: LinkedAgent
    theirs: dict[str, str]
    dataset: DatasetManifest


async def _tenant(deck: Deck, name: str, seed: int) -> tuple[dict[str, str], DatasetManifest]:
    """A tenant with all that a tenant can have."""
    await deck.tenant(name)
    first, second = [await deck.release(name, seed=n, name=f"{name}-support") for n in (seed, seed + 1)]
    await deck.promote(first, name)
    moved = (await deck.promote(second, name)).events[0]
    entry = await deck.blob(json.dumps({"prompt": f"{name} asks", "answer": "a"}).encode())
    dataset = DatasetManifest(tenant=name, name=f"{name}-tickets", rows=1, files=(entry,), provenance=PROVENANCE)
    digest = (await deck.ok("POST", "datasets", dataset.model_dump(mode="json")))["digest"]
    items = await deck.blob(json.dumps({"id": "i0", "prompt": f"{name} is asked", "answer": "a"}).encode())
    suite = SuiteManifest(tenant=name, name=f"{name}-held-out", items=1, files=(items,), provenance=PROVENANCE)
    of_suite = (await deck.ok("POST", "suites", suite.model_dump(mode="json")))["digest"]
    spec = TrainSpec(
        tenant=name,
        name=f"{name}-support",
        base=BASE.digest,
        datasets=(digest,),
        decision=DecisionRecord(why_weights="a test"),
    )
    request = JobRequest(spec=spec, labels={"site": "nowhere"}).model_dump(mode="json")
    job = (await deck.ok("POST", "jobs", request))["id"]
    secret = await deck.ok("POST", f"tenants/{name}/keys")
    adapter = deck.hub.catalogue.releases[second].adapter or ""
    files = deck.hub.catalogue.adapters[adapter].manifest.files
    (weights,) = (file for file in files if file.path.endswith(".safetensors"))
    ids = {
        "tenant": name,
        "route": "production",
        "name": f"{name}-support",
        "release": second,
        "first": first,
        "job": job,
        "event": moved.id,
        "txn": moved.txn,
        "dataset": digest,
        "suite": of_suite,
        "caller": secret["id"],
        "rows": entry.sha256,
        "weights": weights.sha256,
        "adapter": adapter,
    }
    return ids, dataset


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async with data_folder() as data, running(data) as deck:
        agent = LinkedAgent(deck, "n1")
        for name in (OURS, THEIRS):
            await deck.tenant(name)
        await deck.base()
        await agent.join()
        await _tenant(deck, OURS, 1)
        theirs, dataset = await _tenant(deck, THEIRS, 11)
        try:
            yield Fleet(deck, agent, theirs, dataset)
        finally:
            await agent.leave()


async def _in_trouble(fleet: Fleet) -> None:
    """Opens an incident about the other tenant, and begins a campaign that moves it, which is paused."""
    deck, theirs = fleet.deck, {"tenant": THEIRS, "route": "production"}
    opened = {"pointers": [theirs], "reason": "theirs alone", "id": "INC-99", "idempotency_key": key()}
    await deck.ok("POST", "incidents", opened)
    plan: dict[str, Any] = {"ungated": True}
    asked = {"campaign": "their-move", "plan": plan, "targets": [theirs | {"release": fleet.theirs["first"]}]}
    await deck.ok("POST", "campaigns", asked | {"idempotency_key": key()})
    await deck.ok("POST", "campaigns/their-move/pause", {"idempotency_key": key()})
    fleet.theirs.update(incident="INC-99", campaign="their-move")


def nothing_of_theirs(fleet: Fleet, text: str) -> None:
    """No name or id of the other tenant is in a text."""
    found = [what for what, value in fleet.theirs.items() if what != "route" and value in text]
    assert not found, f"{found} in {text[:2000]}"


def _calls() -> list[tuple[str, str, Allowed]]:
    routes = [route for part in RESOURCES for route in part.router.routes if isinstance(route, APIRoute)]
    guards = [(r, d.call) for r in routes for d in r.dependant.dependencies if isinstance(d.call, Allowed)]
    return [(method, route.path, guard) for route, guard in guards for method in sorted(route.methods or ())]


def _bodies(fleet: Fleet) -> dict[tuple[str, str], Any]:
    """Bodies about the other tenant, of calls whose tenant is not in their path."""
    theirs, again = fleet.theirs, {"idempotency_key": key()}
    evaluate = EvaluateSpec(tenant=THEIRS, release=theirs["release"], suite=theirs["suite"])
    return {
        ("POST", "/v1/undo"): {"txn": theirs["txn"], **again},
        ("POST", "/v1/incidents"): {
            "pointers": [{"tenant": THEIRS, "route": "production"}],
            "relatives": True,
            "reason": "an attack",
            **again,
        },
        ("POST", "/v1/incidents/{incident}/notes"): {"text": "an attack", **again},
        ("POST", "/v1/incidents/{incident}/close"): {"text": "an attack", **again},
        ("POST", "/v1/rewind"): {"to_rev": 1, "tenants": [THEIRS], **again},
        ("POST", "/v1/campaigns"): {"campaign": "c", "plan": {}, "targets": [{"tenant": THEIRS}], **again},
        **{("POST", f"/v1/campaigns/{{campaign}}/{what}"): again for what in ("pause", "resume", "stop", "rewind")},
        ("POST", "/v1/datasets"): fleet.dataset.model_copy(update={"name": "more"}).model_dump(mode="json"),
        ("POST", "/v1/preferences"): {
            "manifest": fleet.dataset.model_copy(update={"name": "more"}).model_dump(mode="json"),
            "build": {"judgements": fleet.dataset.digest, "rubric": "helpful@1"},
        },
        ("POST", "/v1/suites"): {
            "tenant": THEIRS,
            "name": "more",
            "items": 1,
            "files": [file.model_dump() for file in fleet.dataset.files],
            "provenance": PROVENANCE.model_dump(mode="json"),
        },
        ("POST", "/v1/bases"): OTHER_BASE.model_dump(mode="json"),
        ("POST", "/v1/releases"): {"tenant": THEIRS, "adapter": theirs["release"], "merged": BASE.digest},
        ("POST", "/v1/jobs"): JobRequest(spec=evaluate).model_dump(mode="json"),
        **{
            ("POST", path): {
                "kind": kind,
                "subject": theirs["release"],
                "tenant": THEIRS,
                "body": {"reason": "an attack"},
                "by": "",
            }
            for path, kind in (("/v1/attestations", "revocation"), ("/v1/attestations/signed", "acknowledged"))
        },
    }


@pytest.mark.parametrize("role", PEOPLE)
async def test_a_token_for_one_tenant_gets_nothing_of_another_by_any_call(fleet: Fleet, role: str) -> None:
    """The attack: any token was shown all tenants, and a releaser's moved them all."""
    await _in_trouble(fleet)
    client, bodies = await fleet.deck.client_of(role, OURS), _bodies(fleet)
    before = fleet.deck.fingerprint()
    asked = 0
    for method, path, guard in _calls():
        names = re.findall(r"{(\w+)}", path)
        filled = path.removeprefix("/v1/") if path.startswith("/v1") else f"http://127.0.0.1:{fleet.deck.port}{path}"
        for shas in ["rows", "weights"] if "sha256" in names else [""]:
            full, said = filled, []
            for name in names:
                other = {"sha256": shas, "key": "caller", "token_id": "caller"}.get(name, name)
                said.append(fleet.theirs.get(other, "n1"))
                full = full.replace(f"{{{name}}}", said[-1])
            body = bodies.get((method, path), {} if method in ("POST", "PUT") else None)
            for query in ({}, {"tenant": THEIRS}):
                answer = await client.request(method, full, json=None if role == "viewer" else body, params=query)
                asked += 1
                if method == "GET" and guard.each and not names:
                    assert answer.status_code == 200 or (query and answer.status_code == 403), full
                elif "{campaign}" in path and role == "releaser":
                    assert answer.status_code == 404  # as for a campaign that there is not
                elif (method, path, role) == ("PUT", "/v1/blobs/{sha256}", "releaser"):
                    assert answer.status_code == 422  # as for a blob that is not here
                elif path == "/v1/requests/{request_id}" and not query:
                    assert answer.json()["rows"] == []  # as for a request that nobody has made
                else:
                    assert answer.status_code in (403, 404), (method, full, answer.text)
                told = answer.text
                for one in said:
                    told = told.replace(one, "")
                nothing_of_theirs(fleet, told)
    assert asked > 100
    assert fleet.deck.fingerprint() == before


async def test_every_call_about_no_tenant_in_its_path_is_for_all_tenants_or_asks_of_each(fleet: Fleet) -> None:
    """A new call is closed to tokens for one tenant until it says that it asks."""
    client = await fleet.deck.client_of("releaser", OURS)
    for method, path, guard in _calls():
        if guard.least is not None and not guard.each and "{tenant}" not in path:
            filled = re.sub(r"{\w+}", "n1", path.removeprefix("/v1/"))
            await fleet.deck.refused(403, "forbidden", method, filled, {} if method != "GET" else None, client)


async def test_every_call_belongs_to_a_resource_that_tokens_can_be_for() -> None:
    routes = [route for part in RESOURCES for route in part.router.routes if isinstance(route, APIRoute)]
    for route in routes:
        guards = [d.call for d in route.dependant.dependencies if isinstance(d.call, Allowed) and d.call.least]
        if guards:
            assert len(route.tags) == 1, route.path
            assert route.tags[0] in set(Resource), route.path


async def test_a_feed_for_one_tenant_is_silent_about_another(fleet: Fleet) -> None:
    """The attack: a viewer's feed had every tenant's moves, rows, jobs and nodes."""
    deck = fleet.deck
    token = (await deck.ok("POST", "tokens", {"name": "v", "role": "viewer", "tenants": {OURS: "viewer"}}))["token"]
    state = HubState.model_validate(await deck.ok("GET", "state", client=deck.with_token(token)))
    since = f"{state.status.epoch}:1"
    url = f"ws://127.0.0.1:{deck.port}/v1/feed?since={since}"
    async with connect(url, additional_headers={"authorization": f"Bearer {token}"}, compression=None) as socket:
        await socket.send(json.dumps({"type": "show", "rows": [f"{THEIRS}/production"], "nodes": ["n1"]}))
        await deck.rollback(THEIRS)
        await fleet.deck.ok("POST", f"jobs/{fleet.theirs['job']}/cancel")
        await deck.rollback(OURS)
        texts: list[str] = []
        ours = 0
        while ours < 2:
            texts.append(str(await socket.recv()))
            message = feed_adapter.validate_json(texts[-1])
            ours += isinstance(message, FeedEvents) and any(e.kind == "rollback" for e in message.events)
            ours += isinstance(message, FeedTenants) and any(r.pointer.generation == 3 for r in message.rows)
    nothing_of_theirs(fleet, "".join(texts))


async def test_what_a_token_for_one_tenant_is_shown_of_it_is_whole(fleet: Fleet) -> None:
    client = await fleet.deck.client_of("viewer", OURS)
    all_, own = [HubState.model_validate(await fleet.deck.ok("GET", "state", client=c)) for c in (None, client)]
    assert [row.key for row in own.tenants] == [(OURS, "production")]
    assert own.me.tenants == {OURS: Role.VIEWER}
    assert {job.id for job in own.jobs} == {job.id for job in all_.jobs if job.tenant == OURS}
    assert [event.id for event in own.events] == [event.id for event in all_.events if event.tenant == OURS]
    assert [node.node for node in own.nodes] == ["n1"]
    events = await fleet.deck.ok("GET", "events", client=client)
    assert [event["id"] for event in reversed(events)] == [event.id for event in own.events]
    metrics = (await client.get(f"http://127.0.0.1:{fleet.deck.port}/metrics")).text
    assert THEIRS not in metrics
    assert "loradeck_events_total" not in metrics


async def test_an_operator_of_one_tenant_moves_it_and_the_event_names_the_token(fleet: Fleet) -> None:
    client = await fleet.deck.client_of("operator", OURS)
    body = await fleet.deck.rollback_body(OURS)
    result = await fleet.deck.ok("POST", f"tenants/{OURS}/routes/production/rollback", body, client)
    (event,) = result["events"]
    used = max(fleet.deck.hub.tokens.all(), key=lambda token: token.created_ms)
    assert (event["token"], event["actor"], event["role"]) == (used.id, used.name, "operator")
    assert (await fleet.deck.ok("GET", "audit/verify"))["ok"]


async def test_a_role_at_one_tenant_is_none_at_another(fleet: Fleet) -> None:
    client = await fleet.deck.client_of("operator", OURS, tenants={OURS: "operator", THEIRS: "viewer"})
    held = {"held": True, "expected_generation": 2, "idempotency_key": key()}
    await fleet.deck.refused(403, "forbidden", "POST", f"tenants/{THEIRS}/routes/production/hold", held, client)
    assert (await client.get(f"tenants/{THEIRS}")).status_code == 200
    assert (await client.post(f"tenants/{OURS}/routes/production/hold", json=held)).status_code == 200


async def test_a_known_idempotency_key_of_another_tenant_answers_nothing(fleet: Fleet) -> None:
    body = await fleet.deck.rollback_body(THEIRS)
    await fleet.deck.ok("POST", f"tenants/{THEIRS}/routes/production/rollback", body)
    client = await fleet.deck.client_of("operator", OURS)
    ours = {**await fleet.deck.rollback_body(OURS), "idempotency_key": body["idempotency_key"]}
    answer = await client.post(f"tenants/{OURS}/routes/production/rollback", json=ours)
    assert answer.status_code == 403
    nothing_of_theirs(fleet, answer.text)
    await fleet.deck.refused(404, "unknown_key", "GET", f"moves/{body['idempotency_key']}", client=client)


async def test_a_token_for_one_resource_gets_no_other(fleet: Fleet) -> None:
    body = {"name": "scraper", "role": "viewer", "resources": ["health"]}
    client = fleet.deck.with_token((await fleet.deck.ok("POST", "tokens", body))["token"])
    assert (await client.get(f"http://127.0.0.1:{fleet.deck.port}/metrics")).status_code == 200
    for path in ("state", "events", "jobs", "tenants", "nodes", f"tenants/{OURS}"):
        await fleet.deck.refused(403, "forbidden", "GET", path, client=client)


async def test_an_expired_token_is_none_and_its_feed_ends(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    deck, clock = fleet.deck, fleet.deck.hub.clock
    body = {"name": "short", "role": "viewer", "expires_ms": clock.now_ms() + 60_000}
    token = (await deck.ok("POST", "tokens", body))["token"]
    client = deck.with_token(token)
    state = HubState.model_validate(await deck.ok("GET", "state", client=client))
    url = f"ws://127.0.0.1:{deck.port}/v1/feed?since={state.status.epoch}:{state.status.rev}"
    async with connect(url, additional_headers={"authorization": f"Bearer {token}"}, compression=None) as socket:
        later = clock.now_ms() + 61_000
        monkeypatch.setattr(deck.hub.tokens, "_now_ms", lambda: later)
        await deck.refused(401, "unauthenticated", "GET", "state", client=client)
        await until(lambda: not deck.hub.changes.subscribers, "the feed ends")
        del socket


async def test_a_valid_name_is_taken_and_a_revoked_ones_is_free(fleet: Fleet) -> None:
    """The attack: two tokens named root, whose moves nobody can tell apart."""
    deck, body = fleet.deck, {"name": "root", "role": "operator"}
    made = await deck.ok("POST", "tokens", body)
    await deck.refused(409, "exists", "POST", "tokens", body)
    await deck.ok("DELETE", f"tokens/{made['id']}")
    await deck.ok("POST", "tokens", body)


async def test_roles_that_do_not_fit_make_no_token(fleet: Fleet) -> None:
    refused = fleet.deck.refused
    for tenants, role in (({}, "viewer"), ({OURS: "releaser"}, "viewer"), ({OURS: "agent"}, "agent")):
        body = {"name": "x", "role": role, "tenants": tenants, "node": "n2" if role == "agent" else None}
        await refused(422, "invalid_request", "POST", "tokens", body)
    unknown = {"name": "x", "role": "viewer", "tenants": {"nobody": "viewer"}}
    await refused(404, "unknown_tenant", "POST", "tokens", unknown)
    await refused(422, "invalid_request", "POST", "tokens", {"name": "x", "role": "viewer", "expires_ms": 1})


async def test_when_a_token_was_last_used_is_written_and_revives_none(fleet: Fleet) -> None:
    deck = fleet.deck
    made = await deck.ok("POST", "tokens", {"name": "v", "role": "viewer"})
    assert (await deck.ok("GET", "tokens"))[-1]["last_used_ms"] is None
    await deck.ok("GET", "state", client=deck.with_token(made["token"]))
    used = deck.hub.tokens.take_used()
    assert made["id"] in used
    deck.hub.tokens._used = used
    await deck.ok("DELETE", f"tokens/{made['id']}")
    await deck.hub.flush()
    written = {token.id: token for token in await deck.hub.store(lambda s: s.tokens())}[made["id"]]
    assert written.revoked
    assert written.last_used_ms == used[made["id"]]


async def test_a_private_base_is_seen_and_used_by_its_tenant_alone(fleet: Fleet) -> None:
    """The attack: `promote acme <zeta's private weights>` answers acme's callers, and `/v1/bases` lists them."""
    deck, ours, theirs = (
        fleet.deck,
        await fleet.deck.client_of("releaser", OURS),
        await fleet.deck.client_of("releaser", THEIRS),
    )
    manifest = OTHER_BASE.model_dump(mode="json")
    await deck.refused(403, "forbidden", "POST", f"bases?tenant={OURS}", manifest, ours)
    await deck.refused(403, "forbidden", "POST", "bases", manifest, ours)
    await deck.ok("POST", f"bases?tenant={THEIRS}", manifest)
    seen = {base["digest"]: base["tenants"] for base in await deck.ok("GET", "bases", client=theirs)}
    assert seen == {BASE.digest: [], OTHER_BASE.digest: [THEIRS]}
    assert [base["digest"] for base in await deck.ok("GET", "bases", client=ours)] == [BASE.digest]
    releases = await deck.ok("GET", f"releases?tenant={OURS}", client=ours)
    assert OTHER_BASE.digest not in {release["base"] for release in releases}
    made = (await deck.adapter_manifest(OURS, seed=3, base=OTHER_BASE)).model_dump(mode="json")
    await deck.refused(409, "wrong_tenant", "POST", f"adapters/{OURS}/support/versions", made)
    await deck.refused(409, "wrong_tenant", "POST", f"bases?tenant={OURS}", manifest)
    await deck.refused(409, "wrong_tenant", "POST", f"bases?tenant={THEIRS}", BASE.model_dump(mode="json"))


async def test_a_node_reads_adapters_of_the_tenants_that_it_works_for_alone(fleet: Fleet) -> None:
    """The attack: with any agent's token, every tenant's weights."""
    deck, sha256 = fleet.deck, fleet.theirs["weights"]
    other = await LinkedAgent(deck, "n2", site="elsewhere").join()
    here, there = await deck.as_role("agent", "n1"), await deck.as_role("agent", "n2")
    stranger = await deck.as_role("agent", "n3")
    await deck.tenant(THEIRS, placement={"site": "elsewhere"})
    assert (await there.get(f"blobs/{sha256}")).status_code == 200
    await until(lambda: not deck.hub.withdrawals.on("n1"), "n1 has acknowledged that it is withdrawn")
    await deck.refused(403, "forbidden", "GET", f"blobs/{sha256}", client=here)
    await deck.refused(403, "forbidden", "GET", f"blobs/{sha256}", client=stranger)
    await other.leave()
