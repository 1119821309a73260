"""Releases of weights that a job trained in full: what an adapter version has, they have."""

from __future__ import annotations

from typing import Any

from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, OTHER_BASE, Deck, key
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_garbage import collected
from tests.integration.hub.test_jobs import FINISHED, job, train

from loradeck.schemas.moves import PromoteRequest
from loradeck.schemas.state import PreviewAction

ROUTE = "tenants/acme/routes/production"


async def trained(deck: Deck, agent: LinkedAgent) -> str:
    """The release of OTHER_BASE, which a job of acme made from BASE."""
    submitted = await train(deck, weights="full")
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    result = {"base": OTHER_BASE.digest, "folder": "/out", "manifest": OTHER_BASE.model_dump(mode="json")}
    await agent.say(assigned, FINISHED, result)
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    release: str = (await job(deck, submitted["id"]))["result"]["release"]
    return release


def promote(deck: Deck, release: str, **more: Any) -> dict[str, Any]:
    generation = deck.hub.log.state.pointers["acme", "production"].generation
    request = PromoteRequest(release=release, expected_generation=generation, idempotency_key=key(), **more)
    return request.model_dump(mode="json")


async def test_r_from_weights_that_a_job_made_quarantines_them_as_an_adapter_version(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one = await deck.release(seed=1)
    full = await trained(deck, await join("n1"))
    await deck.promote(one)
    await join("n2", base=OTHER_BASE.digest)
    await deck.promote(full, wait="committed", override=True, reason="n1 has no engine of it")
    await deck.rollback(wait="committed", confirmed=True)
    pointer = deck.hub.log.state.pointers["acme", "production"]
    assert (pointer.release, [q.release for q in pointer.quarantined]) == (one, [full])
    clear = {"held": False, "expected_generation": pointer.generation, "reason": "mended", "idempotency_key": key()}
    await deck.ok("POST", f"{ROUTE}/hold", clear)
    await deck.refused(409, "quarantined", "POST", f"{ROUTE}/promote", promote(deck, full))


async def test_dora_is_registered_and_merged_and_promoted_by_its_merged_weights_alone(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    await deck.base(OTHER_BASE)
    await join("n1")
    await join("n2", base=OTHER_BASE.digest)
    manifest = (await deck.adapter_manifest(dora=True)).model_dump(mode="json")
    version = await deck.ok("POST", "adapters/acme/support/versions", manifest)
    refused = await deck.refused(
        422, "unsupported_adapter", "POST", f"{ROUTE}/promote", promote(deck, version["release"])
    )
    assert refused.fix == "loradeck job merge acme v1, and promote v1m"
    spec = {"kind": "merge", "tenant": "acme", "release": version["release"]}
    await deck.ok("POST", "jobs", {"spec": spec, "labels": {}})
    body = {"tenant": "acme", "adapter": version["release"], "merged": OTHER_BASE.digest}
    merged = await deck.ok("POST", "releases", body)
    await deck.promote(merged["id"], wait="committed")


async def test_f_from_weights_that_a_job_made_goes_to_the_base_that_they_were_trained_on(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.base()
    full = await trained(deck, await join("n1"))
    await join("n2", base=OTHER_BASE.digest)
    await deck.promote(full, wait="committed")
    alone = deck.hub.catalogue.base_alone_id("acme", BASE.digest)
    preview = (await deck.row()).preview
    assert (preview.action, preview.target and preview.target.id) == (PreviewAction.FALLBACK, alone)
    body = {"expected_generation": 1, "idempotency_key": key(), "reason": "bad"}
    await deck.ok("POST", f"{ROUTE}/fallback", body)
    pointer = deck.hub.log.state.pointers["acme", "production"]
    assert (pointer.release, [q.release for q in pointer.quarantined]) == (alone, [full])


async def test_weights_of_a_tenants_own_are_deprecated_and_those_for_all_are_not(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    full = await trained(deck, await join("n1"))
    await join("n2", base=OTHER_BASE.digest)
    stated = {"kind": "deprecation", "tenant": "acme", "body": {"from_ms": 0, "reason": "old"}, "by": ""}
    await deck.refused(404, "unknown_adapter", "POST", "attestations", stated | {"subject": BASE.digest})
    await deck.ok("POST", "attestations", stated | {"subject": OTHER_BASE.digest})
    await deck.refused(409, "deprecated", "POST", f"{ROUTE}/promote", promote(deck, full))


async def test_a_collection_revokes_weights_that_nothing_goes_back_to_and_no_engine_runs(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    one = await deck.release(seed=1)
    agent = await join("n1")
    full = await trained(deck, agent)
    await deck.promote(one)
    assert (await collected(deck, older_than_days=1)).releases == (), "made lately"
    runs = await join("n2", base=OTHER_BASE.digest)
    found = await collected(deck)
    assert ([r.id for r in found.releases], [r.id for r in found.listed]) == ([], [full])
    runs.replica = runs.replica.model_copy(update={"base": BASE.digest})
    await runs.report()
    await until(lambda: deck.hub.fleet.nodes["n2"].replicas[0].base == BASE.digest, "it runs something else")
    found = await collected(deck)
    assert [r.id for r in found.releases] == [full]
    await collected(deck, dry_run=False, plan=found.digest)
    assert "collected" in deck.hub.facts.revoked[full]
    assert (await collected(deck)).releases == ()
    await deck.refused(409, "revoked", "POST", f"{ROUTE}/promote", promote(deck, full))
