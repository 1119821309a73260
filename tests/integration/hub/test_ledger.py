"""The ledger of datasets on a running hub: which rows come in, and which may be trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.names_process import name_models
from tests.fleets.linked.hub import BASE, PROVENANCE, Deck

from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.dataset_ledger import LedgerEntry, ScanReport
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.manifest import DatasetManifest, DecisionRecord, Provenance, SuiteManifest
from loradeck.store.interface import Doc

HUMAN = PROVENANCE.model_dump(mode="json")
MODEL = HUMAN | {"origin": "synthetic", "synthetic_depth": 1}
GENERATOR = "9" * 64


def row(n: int, **own: Any) -> dict[str, Any]:
    """A row; `own`: its own provenance."""
    return {"prompt": f"p{n}", "answer": f"a{n}"} | ({"provenance": own} if own else {})


async def manifest(
    deck: Deck, rows: list[dict[str, Any]], whole: dict[str, Any] = HUMAN, *, name: str = "t", tenant: str = "acme"
) -> DatasetManifest:
    entry = await deck.blob("".join(json.dumps(one) + "\n" for one in rows).encode())
    files = (entry.model_copy(update={"path": "rows.jsonl"}),)
    provenance = Provenance.model_validate(whole)
    return DatasetManifest(tenant=tenant, name=name, rows=len(rows), files=files, provenance=provenance)


async def dataset(deck: Deck, rows: list[dict[str, Any]], whole: dict[str, Any] = HUMAN, **more: str) -> str:
    body = (await manifest(deck, rows, whole, **more)).model_dump(mode="json")
    digest: str = (await deck.ok("POST", "datasets", body))["digest"]
    return digest


async def items(deck: Deck, rows: list[dict[str, Any]], *, tenant: str = "acme") -> SuiteManifest:
    """A suite of these items, whose file is at the hub."""
    held = await manifest(deck, rows, name="held-out", tenant=tenant)
    fields = {"tenant": tenant, "name": held.name, "files": held.files, "provenance": held.provenance}
    return SuiteManifest(items=len(rows), **fields)


def training(*datasets: str, tenant: str = "acme", **more: Any) -> dict[str, Any]:
    decision = DecisionRecord(why_weights="a test")
    fields = {"tenant": tenant, "name": "s", "base": BASE.digest, "datasets": datasets, "decision": decision, **more}
    return {"spec": TrainSpec.model_validate(fields).model_dump(mode="json")}


@pytest.fixture
async def acme(deck: Deck) -> Deck:
    await deck.tenant()
    await deck.base()
    return deck


async def test_every_row_is_read_and_counted_with_its_own_provenance(acme: Deck) -> None:
    own = {"origin": "synthetic", "synthetic_depth": 2, "generator_release": GENERATOR, "tier": "restricted"}
    rows = [
        row(1),
        row(2, **own),
        row(3, retention_days=30, purpose=["train"]),
        row(4, origin="synthetic", synthetic_depth=0),
    ]
    digest = await dataset(acme, rows)
    (found,) = await acme.ok("GET", f"attestations?kind=ledger&subject={digest}")
    entry = LedgerEntry.model_validate(found["body"])
    assert (entry.rows, entry.human, entry.program, entry.model, entry.deepest) == (4, 2, 1, 1, 2)
    assert (entry.tiers, entry.purposes) == (("public", "restricted"), ("train",))
    assert (entry.retention_days, entry.generators) == (30, (GENERATOR,))
    assert await dataset(acme, rows) == digest
    assert len(await acme.ok("GET", f"attestations?kind=ledger&subject={digest}")) == 1


async def test_rows_with_gaps_in_their_provenance_or_a_forbidden_licence_are_not_registered(acme: Deck) -> None:
    body = (await manifest(acme, [row(1), row(2, origin="mixed")])).model_dump(mode="json")
    assert "line 2" in (await acme.refused(422, "ledger_incomplete", "POST", "datasets", body)).detail
    body = (await manifest(acme, [row(1, licence_class="NoAssertion")])).model_dump(mode="json")
    assert "NOASSERTION" in (await acme.refused(409, "licence_forbidden", "POST", "datasets", body)).detail


async def test_rows_that_cannot_be_read_are_refused_with_their_line_and_without_their_content(acme: Deck) -> None:
    good = await manifest(acme, [row(1)])
    entry = await acme.blob(b'{"prompt": "p"}\nsecret words\n')
    files = [entry.model_copy(update={"path": "rows.jsonl"}).model_dump()]
    body = good.model_dump(mode="json") | {"files": files, "rows": 2}
    problem = await acme.refused(422, "bad_rows", "POST", "datasets", body)
    assert "line 2" in problem.detail
    assert "secret" not in problem.model_dump_json()
    body = good.model_dump(mode="json") | {"rows": 7}
    assert "1, not 7" in (await acme.refused(422, "bad_rows", "POST", "datasets", body)).detail


async def test_no_dataset_without_a_ledger_entry_can_be_trained_on(acme: Deck) -> None:
    before = await manifest(acme, [row(1)])
    # As a hub of before the ledger has left it.
    await acme.hub.registry.register(Doc.DATASET, before.digest, before.model_dump(mode="json"), tenant="acme", by="x")
    await acme.refused(409, "no_ledger_entry", "POST", "jobs", training(before.digest))
    assert await dataset(acme, [row(1)]) == before.digest
    await acme.ok("POST", "jobs", training(before.digest))


async def test_what_a_dataset_may_not_be_used_for_refuses_the_job(acme: Deck) -> None:
    digest = await dataset(acme, [row(1), row(2, purpose=["evaluate"])])
    problem = await acme.refused(409, "purpose_not_allowed", "POST", "jobs", training(digest))
    assert "evaluate" in problem.detail


async def test_rows_are_counted_by_quality_and_a_recipe_that_leaves_none_is_refused(acme: Deck) -> None:
    gold = await dataset(acme, [row(1, quality="gold"), row(2)], HUMAN | {"quality": "curated"})
    (found,) = await acme.ok("GET", f"attestations?kind=ledger&subject={gold}")
    assert found["body"]["qualities"] == {"gold": 1, "curated": 1}
    other = await dataset(acme, [row(3, quality="scraped"), row(4)])
    problem = await acme.refused(409, "no_rows_left", "POST", "jobs", training(gold, other, quality={"scraped": 0}))
    assert problem.detail == "acme/t: 1 scraped, 1 not stated"
    await acme.ok("POST", "jobs", training(gold, quality={"curated": 0, "scraped": 0}))
    await acme.ok("POST", "jobs", training(gold, other, quality={"gold": 2, "scraped": 0.5}))


async def test_a_safety_set_is_a_dataset_of_the_tenant(acme: Deck) -> None:
    digest, asked = await dataset(acme, [row(1)]), await dataset(acme, [row(2)])
    validation = {"rows": 1}
    missing = training(digest, validation=validation, safety={"dataset": "f" * 64})
    await acme.refused(404, "unknown_dataset", "POST", "jobs", missing)
    await acme.ok("POST", "jobs", training(digest, validation=validation, safety={"dataset": asked}))


async def test_a_licence_forbidden_later_refuses_the_job_and_the_policy_is_in_the_log(acme: Deck) -> None:
    digest = await dataset(acme, [row(1, licence_class="CC-BY-NC-4.0")])
    await acme.ok("PUT", "tenants/acme/data-policy?reason=sold", {"forbidden_licences": ["cc-by-nc-*"]})
    await acme.refused(409, "licence_forbidden", "POST", "jobs", training(digest))
    plain = await dataset(acme, [row(2)])
    distillation = {"teacher": BASE.digest, "licence": "CC-BY-NC-4.0"}
    await acme.refused(
        409, "licence_forbidden", "POST", "jobs", training(plain, method="distil", distillation=distillation)
    )
    event = acme.hub.log.recent[-1]
    assert (event.kind, event.reason, event.payload["policy"]["forbidden_licences"]) == (
        "data_policy",
        "sold",
        ["cc-by-nc-*"],
    )
    same = {"forbidden_licences": ["cc-by-nc-*"]}
    await acme.refused(409, "no_change", "PUT", "tenants/acme/data-policy", same)
    viewer = await acme.as_role("viewer")
    await acme.refused(403, "forbidden", "PUT", "tenants/acme/data-policy", {}, client=viewer)


async def test_a_synthetic_share_above_the_cap_refuses_and_human_rows_in_the_mix_count(acme: Deck) -> None:
    made = await dataset(acme, [row(n) for n in range(3)], MODEL, name="made")
    people = await dataset(acme, [row(n) for n in range(10, 12)], name="people")
    problem = await acme.refused(409, "synthetic_share", "POST", "jobs", training(made, people))
    assert problem.context == {"model": 3, "rows": 5, "cap": 0.5}
    await acme.ok("PUT", "tenants/acme/data-policy", {"synthetic_cap": 0.6})
    await acme.ok("POST", "jobs", training(made, people))


async def test_rows_of_a_program_are_not_a_models(acme: Deck) -> None:
    digest = await dataset(
        acme, [row(1)], HUMAN | {"origin": "synthetic", "synthetic_depth": 0, "verifier": "known beforehand"}
    )
    await acme.ok("POST", "jobs", training(digest))


async def test_depth_beyond_one_without_human_rows_refuses(acme: Deck) -> None:
    await acme.ok("PUT", "tenants/acme/data-policy", {"synthetic_cap": 1})
    deep = await dataset(acme, [row(1)], MODEL | {"synthetic_depth": 2}, name="deep")
    people = await dataset(acme, [row(2)], name="people")
    await acme.refused(409, "synthetic_depth", "POST", "jobs", training(deep))
    await acme.ok("POST", "jobs", training(deep, people))


async def test_rows_past_their_retention_refuse_also_when_they_are_registered_again(acme: Deck) -> None:
    rows = [row(1, retention_days=1)]
    digest = await dataset(acme, rows)
    (was,) = acme.hub.facts.ledger.values()
    now = acme.hub.clock.now_ms
    acme.hub.clock.now_ms = lambda: was.at_ms + DAY_MS
    try:
        assert await dataset(acme, rows) == digest
        await acme.refused(409, "retention_over", "POST", "jobs", training(digest))
    finally:
        acme.hub.clock.now_ms = now


async def test_only_the_hub_states_what_is_in_the_ledger(acme: Deck) -> None:
    digest = await dataset(acme, [row(1)])
    for kind in (AttestationKind.LEDGER, AttestationKind.ERASURE):
        body = {"kind": kind.value, "subject": digest, "tenant": "acme", "body": {}, "by": ""}
        await acme.refused(403, "forbidden", "POST", "attestations", body)


def test_a_manifest_of_before_source_and_tier_keeps_its_digest() -> None:
    before = {
        "origin": "human",
        "generator_release": None,
        "synthetic_depth": 0,
        "verifier": None,
        "rater_ids": [],
        "consent": "own",
        "licence_class": "MIT",
        "retention_days": None,
        "purpose": ["train"],
    }
    assert digest_of(Provenance.model_validate(before)) == digest_of(before)


async def test_rows_with_personal_data_or_secrets_come_in_only_with_a_reason_that_is_kept(acme: Deck) -> None:
    secret = "AKIAIOSFODNN7EXAMPLQ"
    body = (await manifest(acme, [row(1), {"prompt": f"{secret} ann@example.org", "answer": "a"}])).model_dump(
        mode="json"
    )
    problem = await acme.refused(422, "sensitive_rows", "POST", "datasets", body)
    assert "e-mail in 1 rows (rows.jsonl, line 2)" in problem.detail
    assert secret not in problem.model_dump_json()
    digest = (await acme.ok("POST", "datasets?accept=made-up", body))["digest"]
    (found,) = await acme.ok("GET", f"attestations?kind=scan&subject={digest}")
    scan = ScanReport.model_validate(found["body"])
    assert ([f.kind for f in scan.findings], scan.accepted) == (["AWS Access Key", "e-mail"], "made-up")


async def test_names_are_looked_for_where_the_hub_has_models_and_otherwise_the_scan_says_so(
    acme: Deck, tmp_path: Path
) -> None:
    rows = [row(1) | {"prompt": "Ann Lee has this and it is what we have for you on the way to the shop"}]
    body = (await manifest(acme, rows)).model_dump(mode="json")
    acme.hub.datasets.names = name_models(tmp_path)
    problem = await acme.refused(422, "sensitive_rows", "POST", "datasets", body)
    assert problem.detail == "name in 1 rows (rows.jsonl, line 1)"
    acme.hub.datasets.names = name_models(tmp_path, "")
    await acme.refused(409, "names_unavailable", "POST", "datasets", body)
    acme.hub.datasets.names = None
    digest = (await acme.ok("POST", "datasets", body))["digest"]
    (found,) = await acme.ok("GET", f"attestations?kind=scan&subject={digest}")
    assert "names" in ScanReport.model_validate(found["body"]).not_looked_for


async def test_items_with_personal_data_or_secrets_come_in_only_with_a_reason_that_is_kept(acme: Deck) -> None:
    secret = "AKIAIOSFODNN7EXAMPLQ"
    item = {"id": "i1", "prompt": f"mail {secret} to ann@example.org", "answer": "no"}
    body = (await items(acme, [{"id": "i0", "prompt": "hello", "answer": "hi"}, item])).model_dump(mode="json")
    problem = await acme.refused(422, "sensitive_rows", "POST", "suites", body)
    assert "e-mail in 1 rows (rows.jsonl, line 2)" in problem.detail
    assert secret not in problem.model_dump_json()
    assert await acme.ok("GET", "suites") == []
    digest = (await acme.ok("POST", "suites?accept=made-up", body))["digest"]
    (found,) = await acme.ok("GET", f"attestations?kind=scan&subject={digest}")
    scan = ScanReport.model_validate(found["body"])
    assert ([f.kind for f in scan.findings], scan.accepted) == (["AWS Access Key", "e-mail"], "made-up")
    await acme.ok("POST", "suites", body)
    assert len(await acme.ok("GET", f"attestations?kind=scan&subject={digest}")) == 1, "the same again is once"


async def test_a_suite_that_is_clean_says_what_was_looked_for(acme: Deck) -> None:
    body = (await items(acme, [{"id": "i0", "prompt": "hello", "answer": "hi"}])).model_dump(mode="json")
    digest = (await acme.ok("POST", "suites", body))["digest"]
    (found,) = await acme.ok("GET", f"attestations?kind=scan&subject={digest}")
    scan = ScanReport.model_validate(found["body"])
    assert (scan.rows, scan.findings, scan.accepted) == (1, (), None)
    assert "names" in scan.not_looked_for


async def frozen(acme: Deck, *freezes: dict[str, Any], reason: str = "") -> None:
    policy = {"training_freezes": freezes}
    await acme.ok("PUT", f"tenants/acme/data-policy?reason={reason}", policy)


async def test_a_job_of_a_frozen_tenant_is_refused_and_says_why_and_until_when(acme: Deck) -> None:
    digest = await dataset(acme, [row(1)])
    now = acme.hub.clock.now_ms()
    await frozen(acme, {"from_ms": now, "until_ms": now + DAY_MS, "reason": "peak week"})
    problem = await acme.refused(409, "training_frozen", "POST", "jobs", training(digest))
    assert "training of acme is frozen until 20" in problem.title
    assert problem.detail == "peak week"
    await acme.refused(422, "reason_required", "PUT", "tenants/acme/data-policy", {})
    await frozen(acme, reason="over")
    await acme.ok("POST", "jobs", training(digest))


async def test_a_legal_hold_is_not_passed_by_a_newer_dataset_of_the_same_name(acme: Deck) -> None:
    held, clean = await dataset(acme, [row(1, source="crm")]), await dataset(acme, [row(2, source="chat")])
    await frozen(acme, {"from_ms": 0, "source": "crm", "reason": "legal hold"})
    problem = await acme.refused(409, "training_frozen", "POST", "jobs", training(held, clean))
    assert "acme/t has rows of crm" in problem.title
    await acme.ok("POST", "jobs", training(clean))


async def test_an_override_of_a_freeze_is_one_event_with_its_reason(acme: Deck) -> None:
    digest = await dataset(acme, [row(1)])
    await frozen(acme, {"from_ms": 0, "source": "*", "reason": "legal hold"})
    passed = training(digest) | {"override": "the court has agreed", "idempotency_key": "once"}
    job = await acme.ok("POST", "jobs", passed)
    assert (await acme.ok("POST", "jobs", passed))["id"] == job["id"]
    (event,) = [one for one in await acme.ok("GET", "events?tenant=acme") if one["override"]]
    assert (event["reason"], event["payload"]["training"]["job"]) == ("the court has agreed", job["id"])
    assert job["override"] == "the court has agreed"


async def test_an_override_passes_the_freezes_of_its_time_and_no_later_one(acme: Deck) -> None:
    digest = await dataset(acme, [row(1)])
    week, more = ({"from_ms": 0, "reason": reason} for reason in ("peak week", "audit"))
    await frozen(acme, week, more)
    job = await acme.ok("POST", "jobs", training(digest) | {"override": "the court has agreed"})
    events = [one for one in await acme.ok("GET", "events?tenant=acme") if one["override"]]
    assert [one["payload"]["training"]["frozen"]["reason"] for one in events] == ["audit", "peak week"]
    acme.hub.queue.assign()
    assert (await acme.ok("GET", f"jobs/{job['id']}"))["message"] == ""
    await frozen(acme, week, {"from_ms": 0, "source": "*", "reason": "legal hold"}, reason="another")
    acme.hub.queue.assign()
    assert "legal hold" in (await acme.ok("GET", f"jobs/{job['id']}"))["message"]
    await acme.ok("POST", f"jobs/{job['id']}/cancel")
    problem = await acme.refused(409, "training_frozen", "POST", f"jobs/{job['id']}/resume")
    assert problem.detail == "legal hold"
    await frozen(acme, week, reason="lifted")
    await acme.ok("POST", f"jobs/{job['id']}/resume")


async def test_a_queued_job_waits_for_the_end_of_a_freeze(acme: Deck) -> None:
    job = await acme.ok("POST", "jobs", training(await dataset(acme, [row(1)])))
    body = {
        "pointers": [{"tenant": "acme", "route": "production"}],
        "reason": "31 % bad",
        "idempotency_key": "open-key-1",
    }
    incident = (await acme.ok("POST", "incidents", body))["events"][0]["incident"]
    acme.hub.queue.assign()
    waits = (await acme.ok("GET", f"jobs/{job['id']}"))["message"]
    assert f"until incident {incident} is closed" in waits
    await acme.ok("POST", f"incidents/{incident}/close", {"text": "mended", "idempotency_key": "close-key-1"})
    acme.hub.queue.assign()
    assert (await acme.ok("GET", f"jobs/{job['id']}"))["message"] == ""
