"""Impact assessments, regulated rows, opt-outs, near rows of an erasure and shared weights on a running hub."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleets.linked.hub import BASE, OTHER_BASE, Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_ledger import HUMAN, dataset, items, manifest, row, training

from loradeck.artifacts import child_process
from loradeck.artifacts.rows.barred_rows import opted_out, row_digest
from loradeck.hub.data.datasets import Datasets
from loradeck.rules.data.policy import toxic_in_words
from loradeck.schemas.attestation import BaseLineage
from loradeck.schemas.dataset_ledger import ScanReport
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import RECIPES, Job
from loradeck.schemas.manifest import BaseManifest

POLICY = "tenants/acme/data-policy?reason=law"


@pytest.fixture
async def acme(deck: Deck) -> Deck:
    await deck.tenant()
    await deck.base()
    return deck


def assessment(source: str, **more: Any) -> dict[str, Any]:
    body = {"source": source, "reference": "DPIA-12", **more}
    subject = digest_of({"tenant": "acme", "source": source})
    return {"kind": "assessment", "subject": subject, "tenant": "acme", "body": body, "by": ""}


async def test_training_waits_for_an_assessment_that_a_named_person_signs(acme: Deck) -> None:
    digest = await dataset(acme, [row(1, source="crm.visits")])
    await acme.refused(422, "reason_required", "PUT", "tenants/acme/data-policy", {"assessors": ["operator"]})
    await acme.ok("PUT", POLICY, {"assessors": ["operator"]})
    problem = await acme.refused(409, "no_dpia", "POST", "jobs", training(digest))
    assert "crm.visits" in problem.detail
    assert "operator may" in problem.fix
    await acme.refused(403, "forbidden", "POST", "attestations/signed", assessment("crm.*"))  # from the hub's host
    person = await acme.as_role("operator")
    signed = await acme.ok("POST", "attestations/signed", assessment("crm.*"), client=person)
    assert signed["by"] == "operator"
    job = await acme.ok("POST", "jobs", training(digest))
    await acme.ok("POST", "attestations/signed", assessment("crm.*", withdrawn=True), client=person)
    acme.hub.queue.assign()
    assert "impact assessment" in (await acme.ok("GET", f"jobs/{job['id']}"))["message"], "a queued job waits for it"
    await acme.refused(409, "no_dpia", "POST", "jobs", training(digest))


async def test_regulated_tables_come_in_with_an_assessment_and_regulated_columns_never(acme: Deck) -> None:
    policy = {"assessors": ["operator"], "regulated_sources": ["ehr.*"], "regulated_columns": ["diagnosis"]}
    await acme.ok("PUT", POLICY, policy)
    table, column = [row(1, source="ehr.visits")], [row(1) | {"diagnosis": "flu"}]
    for rows, code in ((table, "regulated_source"), (column, "regulated_column")):
        body = (await manifest(acme, rows)).model_dump(mode="json")
        problem = await acme.refused(422, code, "POST", "datasets", body)
        assert "line 1" in problem.detail
        assert "flu" not in problem.model_dump_json()
    await acme.ok("POST", "attestations/signed", assessment("ehr.*"), client=await acme.as_role("operator"))
    await dataset(acme, table)
    loose = {"assessors": ["operator"], "regulated_sources": ["ehr.*"]}
    await acme.refused(422, "reason_required", "PUT", "tenants/acme/data-policy", loose)


async def test_rows_that_are_toxic_by_the_tenants_list_are_counted_and_refused_above_its_cap(acme: Deck) -> None:
    listed = {"toxic": {"name": "house list 3", "words": ["damn you", "vеtо", "笨蛋"]}}
    said = ("DAMN, you!", "you damn fool", "veto", "你这个笨蛋", "hello")
    rows = [row(n) | {"prompt": text} for n, text in enumerate(said)]
    rows.append({"prompt": "hello", "chosen": "hi", "rejected": "damn you", "provenance": row(0).get("provenance")})
    rows = [{key: value for key, value in one.items() if value is not None} for one in rows]
    await acme.ok("PUT", POLICY, listed | {"toxic_cap": 0.49})
    body = (await manifest(acme, rows)).model_dump(mode="json")
    problem = await acme.refused(422, "toxic_rows", "POST", "datasets", body)
    assert problem.title == "50.0% of the rows are toxic by the list 'house list 3'; the tenant's cap is 49.0%"
    assert problem.detail == "acme/t: 3 of 6 rows (rows.jsonl, line 1, rows.jsonl, line 3, rows.jsonl, line 4)"
    await acme.refused(422, "reason_required", "PUT", "tenants/acme/data-policy", listed)
    await acme.ok("PUT", POLICY, listed | {"toxic_cap": 0.5})
    digest = (await acme.ok("POST", "datasets", body))["digest"]
    (found,) = await acme.ok("GET", f"attestations?kind=scan&subject={digest}")
    scan = ScanReport.model_validate(found["body"])
    assert scan.toxic is not None
    assert (scan.toxic.rows, scan.toxic.list, scan.findings) == (3, "house list 3", ())
    assert toxic_in_words(scan).startswith("50.0% (18.8% to 81.2%, n = 6) of rows by house list 3, ")
    assert toxic_in_words(scan.model_copy(update={"toxic": None})) == "not counted, as the tenant has no list"


async def test_weights_are_shared_only_where_every_row_may_improve_shared_models(acme: Deck) -> None:
    await acme.tenant("bolt")
    allowed = {**HUMAN, "purpose": ["train", "improve-shared"]}
    rows = {"own": await dataset(acme, [row(1)]), "ours": await dataset(acme, [row(2)], allowed)}
    bases = {}
    for name, digest in rows.items():
        file = {"path": "model.safetensors", "size": 1, "sha256": digest_of({"weights": name})}
        made = BaseManifest.model_validate({"model_id": name, "revision": "1", "files": [file]})
        await acme.hub.lineage.record(
            made.digest, BaseLineage(tenant="acme", job="j1", base=BASE.digest, datasets=(digest,))
        )
        await acme.ok("POST", "bases", made.model_dump(mode="json"))
        bases[name] = made.digest

    def shared(base: str, tenant: str = "acme") -> dict[str, Any]:
        return {"kind": "shared", "subject": base, "tenant": tenant, "body": {"reason": "agreed"}, "by": ""}

    problem = await acme.refused(409, "purpose_not_allowed", "POST", "attestations", shared(bases["own"]))
    assert problem.detail == "acme/t"
    await acme.refused(404, "unknown_base", "POST", "attestations", shared(bases["ours"], "bolt"))
    theirs = await dataset(acme, [row(3)], tenant="bolt")
    body = training(theirs, tenant="bolt", base=bases["ours"])
    await acme.refused(409, "wrong_tenant", "POST", "jobs", body)
    await acme.ok("PUT", POLICY, {"assessors": ["operator"]})
    await acme.refused(409, "no_dpia", "POST", "attestations", shared(bases["ours"]))
    person = await acme.as_role("operator")
    await acme.ok("POST", "attestations/signed", assessment("*", purposes=["train"]), client=person)
    await acme.refused(409, "no_dpia", "POST", "attestations", shared(bases["ours"]))
    await acme.ok("POST", "attestations/signed", assessment("*", purposes=["improve-shared"]), client=person)
    await acme.ok("POST", "attestations", shared(bases["ours"]))
    await acme.ok("POST", "jobs", body)


async def test_weights_that_a_teacher_of_other_rows_taught_are_not_shared(acme: Deck) -> None:
    allowed = {**HUMAN, "purpose": ["train", "improve-shared"]}
    own, ours = await dataset(acme, [row(1)]), await dataset(acme, [row(2)], allowed)
    await acme.hub.lineage.record(
        OTHER_BASE.digest, BaseLineage(tenant="acme", job="j1", base=BASE.digest, datasets=(own,))
    )
    await acme.base(OTHER_BASE)
    student = (await acme.adapter_manifest()).model_copy(update={"datasets": (ours,)}).model_dump(mode="json")
    version = await acme.ok("POST", "adapters/acme/support/versions", student)
    file = {"path": "model.safetensors", "size": 1, "sha256": "7" * 64}
    merged = BaseManifest.model_validate({"model_id": "merged", "revision": "1", "files": [file]})
    lineage = BaseLineage(tenant="acme", job="j3", base=BASE.digest, adapter=version["digest"])
    await acme.hub.lineage.record(merged.digest, lineage)
    await acme.ok("POST", "bases", merged.model_dump(mode="json"))
    distillation = {"teacher": OTHER_BASE.digest, "licence": "MIT"}
    spec = training(ours, method="distil", distillation=distillation)["spec"]
    fields = {"id": "j2", "kind": "train", "tenant": "acme", "spec": spec, "created_ms": 0, "by": "ann"}
    taught = Job.model_validate({**fields, "state": "done", "result": {"adapter": version["digest"]}})
    said = {"kind": "shared", "subject": merged.digest, "tenant": "acme", "body": {"reason": "agreed"}, "by": ""}
    acme.hub.datasets.check_shared("acme", merged.digest, [])
    await acme.hub.jobs.add(taught)
    problem = await acme.refused(409, "purpose_not_allowed", "POST", "attestations", said)
    assert problem.detail == "acme/t"


async def test_rows_of_people_who_opted_out_do_not_come_in_until_that_is_withdrawn(acme: Deck) -> None:
    await acme.tenant("bolt")
    rows = [row(1) | {"id": "i1"}, {"id": "i2", "prompt": "ann@example.org asks", "answer": "yes"}]
    body = {"people": [opted_out("acme", "Ann@example.org").model_dump()], "reason": "request 12"}
    said = {"kind": "opt_out", "subject": digest_of({"tenant": "acme"}), "tenant": "acme", "body": body, "by": ""}
    await acme.refused(422, "reason_required", "POST", "attestations", {**said, "body": {**body, "reason": ""}})
    await acme.ok("POST", "attestations", said)
    for path, made in (("datasets", await manifest(acme, rows)), ("suites", await items(acme, rows))):
        problem = await acme.refused(422, "opted_out", "POST", path, made.model_dump(mode="json"))
        assert problem.detail == "rows.jsonl, line 2"
        assert "ann" not in problem.model_dump_json()
    await acme.ok("POST", "datasets?accept=agreed", (await manifest(acme, rows, tenant="bolt")).model_dump(mode="json"))
    await acme.ok("POST", "attestations", {**said, "body": {**body, "withdrawn": True}})
    await acme.ok("POST", "datasets?accept=agreed", (await manifest(acme, rows)).model_dump(mode="json"))


@pytest.mark.parametrize("path", ["datasets", "suites"])
@pytest.mark.parametrize(("owner", "call"), [(child_process, "ask"), (Datasets, "_seal")])
async def test_an_opt_out_that_comes_while_rows_are_read_or_sealed_keeps_them_out(
    acme: Deck, monkeypatch: pytest.MonkeyPatch, path: str, owner: Any, call: str
) -> None:
    body = {"people": [opted_out("acme", "Ann Meyer").model_dump()], "reason": "request 12"}
    said = {"kind": "opt_out", "subject": digest_of({"tenant": "acme"}), "tenant": "acme", "body": body, "by": ""}
    done = getattr(owner, call)

    async def slowly(*args: Any) -> Any:
        found = await done(*args)
        if not acme.hub.attestations.facts.opted_out["acme"]:
            await acme.ok("POST", "attestations", said)
        return found

    monkeypatch.setattr(owner, call, slowly)
    made = await (manifest if path == "datasets" else items)(acme, [row(1) | {"id": "i1", "prompt": "Ann Meyer asks"}])
    await acme.refused(422, "opted_out", "POST", path, made.model_dump(mode="json"))
    assert made.digest not in acme.hub.registry.catalogue.datasets | acme.hub.registry.catalogue.suites


async def test_an_erasure_lists_what_is_nearly_the_same_and_takes_it_where_that_is_asked(acme: Deck) -> None:
    text = "Zoë of the third floor asks where the parcel with the blue lamp is that was to come on Monday already"
    rows = [{"prompt": said, "answer": "soon"} for said in (text, text.upper(), text.replace("already", "yet"))]
    await dataset(acme, rows)
    asked = await items(acme, [{"id": "i1", "prompt": text.replace("already", "now"), "answer": "soon"}])
    await acme.ok("POST", "suites", asked.model_dump(mode="json"))
    first = {"rows": [row_digest(rows[0])]}
    plan = await acme.ok("POST", "erasures", first)
    assert [place["where"] for place in plan["places"]] == ["rows.jsonl, line 1"]
    alike = [place["where"] for place in plan["alike"] if place["dataset"] != asked.digest]
    assert (alike, len(plan["alike"])) == (["rows.jsonl, line 2", "rows.jsonl, line 3"], 3)
    near = await acme.ok("POST", "erasures", {**first, "near": True})
    assert (len(near["rows"]), near["alike"], len(near["items"])) == (3, [], 1)
    order = {"rows": near["rows"], "plan": near["digest"], "dry_run": False, "reason": "request 12"}
    assert (await acme.ok("POST", "erasures", order))["done"]


async def test_an_agent_of_before_is_not_told_of_datasets_that_it_cannot_read(acme: Deck, join: Join) -> None:
    plain, later = await dataset(acme, [row(1)]), await dataset(acme, [row(2)], {**HUMAN, "quality": "gold"})
    await join("n1")
    for recipes, known in ((0, {plain}), (RECIPES, {plain, later})):
        acme.hub.fleet.nodes["n1"].recipes = recipes
        answer = await acme.ok("GET", "datasets", client=await acme.as_role("agent", "n1"))
        assert {one["digest"] for one in answer} == known


async def test_a_job_on_rows_that_no_agent_can_read_waits_and_says_which_rows_and_agents(
    acme: Deck, join: Join
) -> None:
    known, later = await dataset(acme, [row(1)]), await dataset(acme, [row(2)], {**HUMAN, "quality": "gold"})
    agent = await join("n1")
    await agent.leave()
    agent.recipes = 0
    await agent.join()
    waits, goes = [(await acme.ok("POST", "jobs", training(digest)))["id"] for digest in (later, known)]
    await until(lambda: goes in agent.jobs, "the other one is given")
    found = await acme.ok("GET", f"jobs/{waits}")
    said = "waits for a newer agent: those of n1 cannot read what the rows of acme/t say of themselves"
    assert (found["state"], found["message"]) == ("queued", said)
