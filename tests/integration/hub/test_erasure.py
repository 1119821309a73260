"""Erasing rows: what descends from them is listed, then blocked or retired, and it is never forgotten."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import BASE, OTHER_BASE, Deck, key, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_ledger import HUMAN, dataset, items, manifest, row, training
from tests.integration.hub.test_samples import keep

from loradeck.artifacts.rows.barred_rows import row_digest
from loradeck.schemas.attestation import BaseLineage
from loradeck.schemas.dataset_ledger import ErasurePlan
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.moves import PromoteRequest

ROW = {"prompt": "p7", "answer": "Ann Example"}
DIGEST = row_digest(ROW)


async def version(deck: Deck, seed: int, *datasets: str, parent: str | None = None) -> dict[str, Any]:
    made = await deck.adapter_manifest(seed=seed)
    body = made.model_copy(update={"datasets": datasets, "parent": parent}).model_dump(mode="json")
    found: dict[str, Any] = await deck.ok("POST", "adapters/acme/support/versions", body)
    return found


async def plan(deck: Deck, **request: Any) -> ErasurePlan:
    return ErasurePlan.model_validate(await deck.ok("POST", "erasures", request))


def execution(found: ErasurePlan, **more: Any) -> dict[str, Any]:
    sent = {"rows": found.rows, "plan": found.digest, "dry_run": False, "reason": "request 12", "retire": found.retire}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in {**sent, **more}.items()}


@pytest.fixture
async def acme(deck: Deck) -> Deck:
    await deck.tenant()
    await deck.base()
    return deck


async def test_what_descends_from_a_row_is_listed_through_parents_and_written_rows(acme: Deck) -> None:
    holding = await dataset(acme, [row(1), ROW])
    clean = await dataset(acme, [row(2)], name="clean")
    first = await version(acme, 1, holding)
    child = await version(acme, 2, clean, parent=first["digest"])
    other = await version(acme, 3, clean)
    wrote = HUMAN | {"origin": "synthetic", "synthetic_depth": 1, "generator_release": child["release"]}
    written = await dataset(acme, [row(3)], wrote, name="written")
    last = await version(acme, 4, written)
    run = (await acme.ok("POST", "jobs", training(holding)))["id"]
    suite = await items(acme, [ROW | {"id": "i1"}])
    held_out = (await acme.ok("POST", "suites", suite.model_dump(mode="json")))["digest"]
    found = await plan(acme, containing="ann ex")
    assert [(i.id, i.label) for i in found.items] == [(held_out, "acme/held-out: rows.jsonl, line 1")]
    assert [(p.dataset, p.where, p.row) for p in found.places] == [(holding, "rows.jsonl, line 2", DIGEST)]
    assert ([d.id for d in found.datasets], [d.id for d in found.written]) == ([holding], [written])
    assert {a.id for a in found.adapters} == {v["digest"] for v in (first, child, last)}
    assert {r.id for r in found.releases} == {v["release"] for v in (first, child, last)}
    assert other["release"] not in {r.id for r in found.releases}
    assert ([r.id for r in found.runs], found.cancelled, found.tenants) == ([run], (run,), ("acme",))
    assert (await plan(acme, rows=[DIGEST])).digest == found.digest


async def test_an_erasure_is_refused_without_its_plan_a_reason_or_a_row_and_changes_nothing(acme: Deck) -> None:
    await dataset(acme, [ROW])
    found = await plan(acme, rows=[DIGEST])
    await acme.refused(422, "invalid_request", "POST", "erasures", {})
    await acme.refused(422, "plan_required", "POST", "erasures", execution(found, plan=None))
    await acme.refused(422, "plan_required", "POST", "erasures", execution(found, containing="a7x"))
    await acme.refused(422, "reason_required", "POST", "erasures", execution(found, reason=""))
    await acme.refused(404, "unknown_row", "POST", "erasures", execution(found, rows=["0" * 64]))
    await acme.refused(404, "unknown_tenant", "POST", "erasures", {"rows": [DIGEST], "tenants": ["none"]})
    operator = await acme.as_role("operator")
    await acme.refused(403, "forbidden", "POST", "erasures", execution(found), client=operator)


async def test_a_plan_that_is_no_longer_true_is_refused_with_the_new_one(acme: Deck) -> None:
    holding = await dataset(acme, [ROW])
    found = await plan(acme, rows=[DIGEST])
    await version(acme, 1, holding)
    problem = await acme.refused(409, "plan_changed", "POST", "erasures", execution(found))
    assert len(ErasurePlan.model_validate(problem.context["plan"]).adapters) == 1


async def test_an_erasure_tells_nodes_to_remove_the_tenants_samples_of_before(acme: Deck, join: Join) -> None:
    agent = await join("n1")
    await acme.promote(await acme.release(seed=1))
    await keep(acme)
    await until(lambda: agent.entry.sample_hours == 24, "the node keeps samples")
    assert not agent.entry.samples_from_ms
    await dataset(acme, [ROW])
    await acme.ok("POST", "erasures", execution(await plan(acme, rows=[DIGEST])))
    (stated,) = await acme.ok("GET", "attestations?kind=erasure")
    await until(lambda: agent.entry.samples_from_ms == stated["at_ms"], "samples of before go")


async def test_after_an_erasure_nothing_that_descends_goes_forward(acme: Deck, join: Join) -> None:
    holding = await dataset(acme, [row(1), ROW])
    clean = await dataset(acme, [row(2)], name="clean")
    first = await version(acme, 1, holding)
    job = (await acme.ok("POST", "jobs", training(holding)))["id"]
    found = await plan(acme, rows=[DIGEST])
    done = ErasurePlan.model_validate(await acme.ok("POST", "erasures", execution(found)))
    assert done.done
    assert (await acme.ok("GET", f"jobs/{job}"))["state"] == "cancelled"
    again = ErasurePlan.model_validate(await acme.ok("POST", "erasures", execution(found)))
    assert (again.done, again.digest) == (True, found.digest)
    (stated,) = await acme.ok("GET", f"attestations?kind=erasure&subject={holding}")
    assert (stated["body"]["rows"], stated["body"]["reason"], stated["by"] != "") == ([DIGEST], "request 12", True)

    problem = await acme.refused(409, "erased_row", "POST", "jobs", training(holding, clean))
    assert problem.context["rows"] == [DIGEST]
    spec = training(clean)
    spec["spec"]["parent"] = first["digest"]
    await acme.refused(409, "erased_row", "POST", "jobs", spec)
    late = (await acme.adapter_manifest(seed=5)).model_copy(update={"datasets": (holding,)}).model_dump(mode="json")
    await acme.refused(409, "erased_row", "POST", "adapters/acme/support/versions", late)
    copied = (await manifest(acme, [ROW | {"id": "new"}], name="again")).model_dump(mode="json")
    await acme.refused(409, "erased_row", "POST", "datasets", copied)
    asked = (await items(acme, [ROW | {"id": "i1"}])).model_dump(mode="json")
    await acme.refused(409, "erased_row", "POST", "suites", asked)
    assert await acme.ok("GET", "suites") == []
    await join()
    body = PromoteRequest(release=first["release"], expected_generation=0, idempotency_key=key()).model_dump(
        mode="json"
    )
    override = body | {"override": True, "reason": "please"}
    path = "tenants/acme/routes/production/promote"
    await acme.refused(409, "erased_row", "POST", path, override)


async def trained_base(deck: Deck, join: Join, holding: str) -> LinkedAgent:
    """OTHER_BASE, which a job of acme made by training every weight, is registered by a person."""
    agent = await join("n1")
    spec = training(holding)
    spec["spec"]["weights"] = "full"
    submitted = (await deck.ok("POST", "jobs", spec))["id"]
    assigned = await until(lambda: agent.jobs.get(submitted), "assigned")
    await agent.say(assigned, ExecutorEventType.FINISHED, {"base": OTHER_BASE.digest, "folder": "/out"})
    await until(lambda: deck.hub.jobs.get(submitted).ended_ms, "over")  # type: ignore[union-attr]
    await deck.base(OTHER_BASE)
    return agent


async def on_other_base(deck: Deck, seed: int, tenant: str = "acme") -> dict[str, Any]:
    return (await deck.adapter_manifest(tenant, seed=seed, base=OTHER_BASE)).model_dump(mode="json")


async def refused_promote(deck: Deck, code: str, release: str, tenant: str = "acme") -> None:
    body = PromoteRequest(
        release=release, expected_generation=0, idempotency_key=key(), override=True, reason="please"
    ).model_dump(mode="json")
    await deck.refused(409, code, "POST", f"tenants/{tenant}/routes/production/promote", body)


async def test_rows_are_erased_from_a_base_that_a_job_made_and_from_all_that_stands_on_it(
    acme: Deck, join: Join
) -> None:
    holding, clean = await dataset(acme, [ROW]), await dataset(acme, [row(2)], name="clean")
    await trained_base(acme, join, holding)
    (stated,) = await acme.ok("GET", f"attestations?kind=lineage&subject={OTHER_BASE.digest}")
    assert (stated["tenant"], stated["body"]["datasets"], stated["body"]["base"]) == ("acme", [holding], BASE.digest)
    first = await acme.ok("POST", "adapters/acme/support/versions", await on_other_base(acme, 1))
    alone = acme.hub.catalogue.base_alone_id("acme", OTHER_BASE.digest)
    found = await plan(acme, rows=[DIGEST], retire=True)
    assert [(b.id, b.label) for b in found.bases] == [(OTHER_BASE.digest, "B2")]
    assert {a.id for a in found.adapters} == {first["digest"]}
    assert {r.id: r.label for r in found.releases}.keys() == {first["release"], alone}
    assert "acme base B2" in {r.label for r in found.releases}
    await acme.ok("POST", "erasures", execution(found))
    await join("n2", base=OTHER_BASE.digest)
    for release in (alone, first["release"]):
        await refused_promote(acme, "erased_row", release)
    spec = training(clean)
    spec["spec"]["base"] = OTHER_BASE.digest
    await acme.refused(409, "erased_row", "POST", "jobs", spec)
    await acme.refused(409, "erased_row", "POST", "adapters/acme/support/versions", await on_other_base(acme, 2))


async def test_a_base_made_from_erased_rows_is_not_registered_later(acme: Deck, join: Join) -> None:
    holding = await dataset(acme, [ROW])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acme, "base", AsyncMock())
        await trained_base(acme, join, holding)
    await acme.ok("POST", "erasures", execution(await plan(acme, rows=[DIGEST])))
    await acme.refused(409, "erased_row", "POST", "bases", OTHER_BASE.model_dump(mode="json"))


async def test_rows_are_erased_from_merged_weights_and_from_adapters_trained_on_them(acme: Deck, join: Join) -> None:
    holding = await dataset(acme, [ROW])
    one = await version(acme, 1, holding)
    await acme.base(OTHER_BASE)
    body = {"tenant": "acme", "adapter": one["release"], "merged": OTHER_BASE.digest}
    merged = await acme.ok("POST", "releases", body)
    on_merged = await acme.ok("POST", "adapters/acme/support/versions", await on_other_base(acme, 2))
    found = await plan(acme, rows=[DIGEST])
    assert [b.id for b in found.bases] == [OTHER_BASE.digest]
    assert {r.id for r in found.releases} == {one["release"], merged["id"], on_merged["release"]}
    await acme.ok("POST", "erasures", execution(found))
    await join("n1", base=OTHER_BASE.digest)
    await refused_promote(acme, "erased_row", on_merged["release"])
    await refused_promote(acme, "erased_row", acme.hub.catalogue.base_alone_id("acme", OTHER_BASE.digest))


async def test_the_plan_names_the_nodes_with_weights_that_descend_and_retiring_revokes_these(
    acme: Deck, join: Join
) -> None:
    holding = await dataset(acme, [ROW])
    one = await version(acme, 1, holding)
    await acme.base(OTHER_BASE)
    body = {"tenant": "acme", "adapter": one["release"], "merged": OTHER_BASE.digest}
    await acme.ok("POST", "releases", body)
    here = await join("n1")
    here.stored = (OTHER_BASE.digest,)
    await here.leave()
    await here.join()
    away = await join("n2")
    away.stored = (OTHER_BASE.digest,)
    await away.leave()
    await away.join()
    await join("n3", base=OTHER_BASE.digest)
    found = await plan(acme, rows=[DIGEST], retire=True)
    await away.leave()
    await until(lambda: not acme.hub.fleet.nodes["n2"].linked, "n2 has left")
    again = await plan(acme, rows=[DIGEST], retire=True)
    assert found.digest == again.digest, "who is linked changes nothing of what would be done"
    assert [(w.node, w.base, w.linked, w.managed) for w in again.weights] == [
        ("n1", OTHER_BASE.digest, True, True),
        ("n2", OTHER_BASE.digest, False, True),
        ("n3", OTHER_BASE.digest, True, False),
    ]
    done = ErasurePlan.model_validate(await acme.ok("POST", "erasures", execution(found)))
    assert [w.node for w in done.weights] == ["n1", "n2", "n3"]
    stated = await acme.ok("GET", "attestations?kind=revocation")
    assert OTHER_BASE.digest in {one["subject"] for one in stated}
    here.stored = ()
    await here.leave()
    await here.join()
    assert [w.node for w in (await plan(acme, rows=[DIGEST], retire=True)).weights] == ["n2", "n3"]


async def test_weights_on_a_node_that_is_not_heard_are_known_by_the_jobs_that_it_ran(acme: Deck, join: Join) -> None:
    holding = await dataset(acme, [ROW])
    one = await version(acme, 1, holding)
    agent = await trained_base(acme, join, holding)
    (job,) = [job.id for job in acme.hub.jobs.newest()]
    made = BaseLineage(tenant="acme", job=job, base=BASE.digest, adapter=one["digest"])
    await acme.hub.lineage.record("e" * 64, made)

    async def places() -> list[tuple[str, str, bool, bool]]:
        return [(w.node, w.base, w.linked, w.managed) for w in (await plan(acme, rows=[DIGEST])).weights]

    trained = ("n1", OTHER_BASE.digest, True, False)
    assert await places() == [trained], "n1 says that no merged weights lie there"
    await agent.leave()
    node = acme.hub.fleet.nodes["n1"]
    await until(lambda: not node.linked, "n1 has left")
    node.heard = None
    assert sorted(await places()) == sorted([("n1", OTHER_BASE.digest, False, False), ("n1", "e" * 64, False, True)])


async def test_a_base_that_a_job_made_is_its_tenants_own(acme: Deck, join: Join) -> None:
    await acme.tenant("bolt")
    await trained_base(acme, join, await dataset(acme, [row(1)]))
    await join("n2", base=OTHER_BASE.digest)
    await refused_promote(acme, "wrong_tenant", acme.hub.catalogue.base_alone_id("bolt", OTHER_BASE.digest), "bolt")
    body = await on_other_base(acme, 1, "bolt")
    await acme.refused(409, "wrong_tenant", "POST", "adapters/bolt/support/versions", body)
    spec = training(await dataset(acme, [row(2)], tenant="bolt"), tenant="bolt")
    spec["spec"]["base"] = OTHER_BASE.digest
    await acme.refused(409, "wrong_tenant", "POST", "jobs", spec)
    release = await acme.release("bolt", seed=2)
    claim = {"tenant": "bolt", "adapter": release, "merged": OTHER_BASE.digest}
    await acme.refused(409, "wrong_tenant", "POST", "releases", claim)
    await acme.promote(acme.hub.catalogue.base_alone_id("acme", OTHER_BASE.digest), wait="committed")


async def test_a_node_cannot_make_a_base_that_others_use_a_tenants_own(acme: Deck, join: Join) -> None:
    await acme.tenant("bolt")
    await acme.release("bolt", base=OTHER_BASE)
    await trained_base(acme, join, await dataset(acme, [row(1)]))
    assert [(j["state"], j["code"]) for j in await acme.ok("GET", "jobs")] == [("failed", "wrong_tenant")]
    await acme.release("bolt", seed=2, base=OTHER_BASE)


async def test_rows_that_one_tenant_had_erased_do_not_come_in_at_another(acme: Deck) -> None:
    await acme.tenant("bolt")
    await dataset(acme, [ROW])
    await acme.ok("POST", "erasures", execution(await plan(acme, rows=[DIGEST])))
    body = (await manifest(acme, [row(1), ROW], tenant="bolt")).model_dump(mode="json")
    problem = await acme.refused(409, "erased_row", "POST", "datasets", body)
    assert "line 2" in problem.detail
    assert "loradeck tenant data" in (problem.fix or "")
    suite = (await items(acme, [ROW | {"id": "i1"}], tenant="bolt")).model_dump(mode="json")
    await acme.refused(409, "erased_row", "POST", "suites", suite)
    await acme.ok("PUT", "tenants/bolt/data-policy", {"lift_erasures": "Ann Example agreed to it, ticket 9"})
    await acme.ok("POST", "datasets", body)
    await acme.ok("POST", "suites", suite)
    own = (await manifest(acme, [ROW, row(3)], name="again")).model_dump(mode="json")
    await acme.ok("PUT", "tenants/acme/data-policy", {"lift_erasures": "not for its own"})
    await acme.refused(409, "erased_row", "POST", "datasets", own)


async def test_the_plan_names_the_same_rows_at_other_tenants_and_nothing_is_made_from_them_there(
    acme: Deck, join: Join
) -> None:
    await acme.tenant("bolt")
    near = {"prompt": "p8", "answer": "Ann Example too"}
    await dataset(acme, [ROW])
    theirs = await dataset(acme, [row(1), near, ROW], tenant="bolt")
    made = (await acme.adapter_manifest("bolt")).model_copy(update={"datasets": (theirs,)}).model_dump(mode="json")
    one = await acme.ok("POST", "adapters/bolt/support/versions", made)
    found = await plan(acme, containing="ann example", tenants=["acme"])
    assert [(e.id, e.label) for e in found.elsewhere] == [(theirs, "bolt/t: rows.jsonl, line 3")]
    assert (found.rows, found.tenants, found.adapters) == ((DIGEST,), ("acme",), ())
    assert (await plan(acme, containing="ann example")).elsewhere == (), "they are erased themselves then"
    await acme.ok("POST", "erasures", execution(found, tenants=["acme"]))
    problem = await acme.refused(409, "erased_row", "POST", "jobs", training(theirs, tenant="bolt"))
    assert problem.context["rows"] == [DIGEST]
    assert "--lift-erasures" in (problem.fix or "")
    await join("n1")
    await refused_promote(acme, "erased_row", one["release"], "bolt")
    assert {f.sha256 for f in acme.hub.catalogue.datasets[theirs].files} <= set(acme.hub.catalogue.rows_in)
    assert await acme.ok("GET", f"attestations?kind=erasure&subject={theirs}") == [], "nodes and collection keep them"
    await acme.ok("PUT", "tenants/bolt/data-policy", {"lift_erasures": "Ann Example agreed to it, ticket 9"})
    await acme.ok("POST", "jobs", training(theirs, tenant="bolt"))
    await acme.promote(one["release"], "bolt", wait="committed")


async def test_rows_erased_at_another_tenant_stay_refused_when_the_hub_starts_again(data: Any) -> None:
    async with running(data) as deck:
        await deck.tenant()
        await deck.tenant("bolt")
        await deck.base()
        await dataset(deck, [ROW])
        theirs = await dataset(deck, [ROW], tenant="bolt")
        found = await plan(deck, rows=[DIGEST], tenants=["acme"])
        await deck.ok("POST", "erasures", execution(found, tenants=["acme"]))
    async with running(data) as deck:
        await deck.refused(409, "erased_row", "POST", "jobs", training(theirs, tenant="bolt"))


async def test_retiring_previews_the_pointers_that_lose_their_way_back_and_r_steps_over_them(
    acme: Deck, join: Join
) -> None:
    holding, clean = await dataset(acme, [ROW]), await dataset(acme, [row(2)], name="clean")
    bad, good = await version(acme, 1, holding), await version(acme, 2, clean)
    await join()
    await acme.promote(bad["release"])
    await acme.promote(good["release"])
    blocked = await plan(acme, rows=[DIGEST])
    assert [p.loses_way_back for p in blocked.pointers] == [False]
    found = await plan(acme, rows=[DIGEST], retire=True)
    (pointer,) = found.pointers
    assert (pointer.live, pointer.loses_way_back, (pointer.way_back or "")[:2]) == (None, True, "v1")
    before = acme.hub.log.state.pointers["acme", "production"]
    await acme.ok("POST", "erasures", execution(found))
    assert acme.hub.log.state.pointers["acme", "production"] == before
    preview = (await acme.row()).preview
    assert preview.target is None or preview.target.id != bad["release"]
    assert "request 12" in acme.hub.facts.revoked[bad["release"]]


async def test_an_erasure_outlives_the_hub(data: Any) -> None:
    async with running(data) as deck:
        await deck.tenant()
        await deck.base()
        holding = await dataset(deck, [ROW])
        await deck.ok("POST", "erasures", execution(await plan(deck, rows=[DIGEST])))
    async with running(data) as deck:
        await deck.refused(409, "erased_row", "POST", "jobs", training(holding))
        body = (await manifest(deck, [row(9), ROW], name="again")).model_dump(mode="json")
        await deck.refused(409, "erased_row", "POST", "datasets", body)


async def test_a_dataset_whose_files_are_gone_is_said_to_be_unsearched(acme: Deck) -> None:
    holding = await dataset(acme, [ROW])
    file = acme.hub.catalogue.datasets[holding].files[0]
    acme.hub.blobs.delete([file.sha256])
    found = await plan(acme, rows=[DIGEST])
    assert (found.places, [one.id for one in found.unread]) == ((), [holding])
