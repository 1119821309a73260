"""The registry and its blobs: what is taken in, under which name, and what is refused untouched."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest
from tests.fakes.lora_files import lora_files
from tests.fleets.linked.hub import BASE, OTHER_BASE, PROVENANCE, Deck
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.jobs import EvaluateSpec, JobRequest, TrainSpec
from loradeck.schemas.manifest import AdapterManifest, DecisionRecord, SuiteManifest

PATH = "adapters/acme/support/versions"


async def test_bases_are_numbered_in_the_order_they_came_and_the_same_one_twice_is_one(deck: Deck) -> None:
    first = await deck.ok("POST", "bases", BASE.model_dump(mode="json"))
    second = await deck.ok("POST", "bases", OTHER_BASE.model_dump(mode="json"))
    assert (first["label"], second["label"]) == ("B1", "B2")
    renamed = BASE.model_copy(update={"model_id": "another-name"})
    assert await deck.ok("POST", "bases", renamed.model_dump(mode="json")) == first
    assert [(b["digest"], b["label"]) for b in await deck.ok("GET", "bases")] == [
        (BASE.digest, "B1"),
        (OTHER_BASE.digest, "B2"),
    ]


async def test_an_adapter_gets_the_next_version_and_a_release_of_its_own(deck: Deck) -> None:
    await deck.tenant()
    await deck.base()
    one = await deck.adapter_manifest(seed=1)
    two = await deck.adapter_manifest(seed=2)
    first = await deck.ok("POST", PATH, one.model_dump(mode="json"))
    second = await deck.ok("POST", PATH, two.model_dump(mode="json"))
    assert (first["version"], second["version"]) == (1, 2)
    assert (await deck.ok("POST", PATH, one.model_dump(mode="json"))) == first
    assert [v["version"] for v in await deck.ok("GET", PATH)] == [1, 2]
    views = {r["label"]: r for r in await deck.ok("GET", "releases?tenant=acme")}
    assert set(views) == {"v1", "v2", "base"}
    assert views["v2"]["id"] == second["release"]
    detail = await deck.ok("GET", f"releases/{second['release']}", client=await deck.as_role("agent", "n1"))
    assert AdapterManifest.model_validate(detail["manifest"]) == two
    assert detail["release"]["label"] == "v2"
    await deck.refused(404, "unknown_release", "GET", f"releases/{'0' * 64}")


async def _changed(deck: Deck, **update: Any) -> dict[str, Any]:
    manifest = (await deck.adapter_manifest()).model_dump(mode="json")
    return manifest | update


async def test_what_a_manifest_names_must_be_known(deck: Deck) -> None:
    await deck.tenant()
    body = await _changed(deck)
    await deck.refused(404, "unknown_base", "POST", PATH, body)
    await deck.base()
    await deck.refused(404, "unknown_dataset", "POST", PATH, body | {"datasets": ["a" * 64]})
    await deck.refused(404, "unknown_adapter", "POST", PATH, body | {"parent": "a" * 64})
    await deck.refused(404, "unknown_tenant", "POST", "adapters/bolt/support/versions", body | {"tenant": "bolt"})
    await deck.refused(422, "manifest_mismatch", "POST", "adapters/acme/other/versions", body)
    await deck.refused(422, "invalid_request", "POST", PATH, body | {"surprise": 1})


async def test_a_parent_of_another_base_is_the_wrong_base(deck: Deck) -> None:
    await deck.tenant()
    await deck.base()
    await deck.base(OTHER_BASE)
    parent = await deck.ok("POST", PATH, await _changed(deck))
    child = await _changed(deck, base=OTHER_BASE.digest, parent=parent["digest"])
    await deck.refused(409, "wrong_base", "POST", PATH, child)


@pytest.mark.parametrize("path", ["../escape", "/etc/passwd", "a/../../b", "a\\b", "./a", "a//b"])
async def test_a_path_that_leaves_the_folder_is_refused_before_anything_is_looked_at(deck: Deck, path: str) -> None:
    await deck.tenant()
    await deck.base()
    body = await _changed(deck)
    body["files"][0]["path"] = path
    problem = await deck.refused(422, "path_traversal", "POST", PATH, body)
    assert "body.files.0.path" in problem.context["fields"]


async def test_files_that_are_not_here_or_not_as_long_as_said_are_refused(deck: Deck) -> None:
    await deck.tenant()
    await deck.base()
    body = await _changed(deck)
    absent = [body["files"][0] | {"sha256": "0" * 64}, body["files"][1]]
    await deck.refused(404, "unknown_blob", "POST", PATH, body | {"files": absent})
    longer = [body["files"][0] | {"size": body["files"][0]["size"] + 1}, body["files"][1]]
    await deck.refused(422, "manifest_mismatch", "POST", PATH, body | {"files": longer})


async def test_an_adapter_that_is_not_what_its_manifest_says_is_refused(deck: Deck) -> None:
    await deck.tenant()
    await deck.base()
    body = await _changed(deck)
    await deck.refused(422, "manifest_mismatch", "POST", PATH, body | {"rank": 8})
    await deck.refused(422, "manifest_mismatch", "POST", PATH, body | {"target_modules": ["v_proj"]})


async def test_a_pickle_or_truncated_weights_never_become_a_version(deck: Deck) -> None:
    await deck.tenant()
    await deck.base()
    body = await _changed(deck)
    pickled = (await deck.blob(b"\x80\x04K\x01.")).model_copy(update={"path": "adapter_model.bin"})
    files = [pickled.model_dump(), *body["files"]]
    await deck.refused(422, "pickle_in_adapter", "POST", PATH, body | {"files": files})
    whole = lora_files(1)["adapter_model.safetensors"]
    cut = (await deck.blob(whole[:-10])).model_copy(update={"path": "adapter_model.safetensors"})
    files = [cut.model_dump(), *(f for f in body["files"] if f["path"] != cut.path)]
    await deck.refused(422, "truncated_safetensors", "POST", PATH, body | {"files": files})


async def test_datasets_and_suites_are_kept_by_digest_with_their_files(deck: Deck) -> None:
    await deck.tenant()
    dataset, suite = await deck.dataset(), await deck.suite()
    agent = await deck.as_role("agent", "n1")
    (found,) = await deck.ok("GET", "datasets", client=agent)
    assert (found["digest"], found["manifest"]["provenance"]["origin"]) == (dataset, "human")
    (found,) = await deck.ok("GET", "suites", client=agent)
    assert (found["digest"], found["manifest"]["items"]) == (suite, 20)
    manifest = found["manifest"]
    manifest["files"][0]["sha256"] = "1" * 64
    await deck.refused(404, "unknown_blob", "POST", "suites", manifest)
    assert PROVENANCE.consent == "own"


@pytest.mark.parametrize(
    ("rows", "items", "code"),
    [
        ('{"id": "a", "prompt": "p"}\n', 1, "bad_rows"),
        ('{"id": "a", "prompt": "p", "answer": "a"}\n', 2, "manifest_mismatch"),
    ],
)
async def test_a_suite_whose_items_are_not_what_they_say_is_refused_by_the_hub_too(
    deck: Deck, rows: str, items: int, code: str
) -> None:
    await deck.tenant()
    files = (await deck.blob(rows.encode()),)
    manifest = SuiteManifest(tenant="acme", name="s", items=items, files=files, provenance=PROVENANCE)
    problem = await deck.refused(422, code, "POST", "suites", manifest.model_dump(mode="json"))
    assert ("line 1" in problem.detail) is (code == "bad_rows")
    assert await deck.ok("GET", "suites") == []


async def test_a_gate_on_a_suite_of_another_tenant_is_refused(deck: Deck) -> None:
    await deck.tenant("acme")
    await deck.tenant("bolt")
    suite = await deck.suite("bolt")
    await deck.refused(
        404, "unknown_suite", "PUT", "tenants/acme/routes/production", {"gate": {"suite": suite, "min_exact": 0.5}}
    )


# ---- blobs -----------------------------------------------------------------------------------------------


async def test_a_blob_comes_back_whole_and_in_parts(deck: Deck) -> None:
    content = bytes(range(256)) * 10_000
    digest = hashlib.sha256(content).hexdigest()
    releaser = await deck.as_role("releaser")
    assert (await releaser.head(f"blobs/{digest}")).status_code == 404
    assert (await releaser.put(f"blobs/{digest}", content=content)).status_code == 200
    assert (await releaser.put(f"blobs/{digest}", content=content)).status_code == 200
    head = await releaser.head(f"blobs/{digest}")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))
    whole = await releaser.get(f"blobs/{digest}")
    assert (whole.status_code, whole.content) == (200, content)
    for header, start, stop in (
        ("bytes=0-9", 0, 10),
        ("bytes=2559990-", 2_559_990, 2_560_000),
        ("bytes=100-99999999", 100, 2_560_000),
        ("bytes=-5", 2_559_995, 2_560_000),
    ):
        part = await releaser.get(f"blobs/{digest}", headers={"range": header})
        assert (part.status_code, part.content) == (206, content[start:stop]), header
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    beyond = await releaser.get(f"blobs/{digest}", headers={"range": "bytes=2560000-"})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "range_not_satisfiable")


async def test_content_that_is_not_what_its_address_says_is_refused_and_not_kept(deck: Deck) -> None:
    digest = hashlib.sha256(b"right").hexdigest()
    answer = await deck.local.put(f"blobs/{digest}", content=b"wrong")
    assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch")
    await deck.refused(404, "unknown_blob", "GET", f"blobs/{digest}")
    incoming = deck.data / "artifacts" / "incoming"
    assert list(incoming.iterdir()) == []


async def test_a_blob_is_named_by_a_digest_and_nothing_else(deck: Deck) -> None:
    for name in ("..%2F..%2Fhub.db", "A" * 64, "0" * 63):
        answer = await deck.local.get(f"blobs/{name}")
        assert answer.status_code in (404, 422), name
        assert answer.json()["code"] in ("path_traversal", "not_found"), name


async def test_viewers_may_read_blobs_and_not_write_them(deck: Deck) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    viewer = await deck.as_role("viewer")
    answer = await viewer.put(f"blobs/{digest}", content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    await deck.blob(b"x")
    assert (await viewer.get(f"blobs/{digest}")).content == b"x"


async def test_rows_are_read_by_a_releaser_and_by_a_node_while_it_holds_a_job_that_names_them(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.base()
    dataset, suite = await deck.dataset(), await deck.suite()
    rows = deck.hub.catalogue.datasets[dataset].files[0].sha256
    items = deck.hub.catalogue.suites[suite].files[0].sha256
    idle = await deck.as_role("agent", "n0")
    for client in (await deck.as_role("viewer"), await deck.as_role("operator"), idle):
        for sha256, owner in ((rows, "acme/tickets"), (items, "acme/held-out")):
            problem = await deck.refused(403, "forbidden", "GET", f"blobs/{sha256}", client=client)
            assert owner in problem.title
            assert (await client.head(f"blobs/{sha256}")).status_code == 403
    releaser = await deck.as_role("releaser")
    assert (await releaser.get(f"blobs/{rows}")).status_code == 200
    assert (await deck.local.get(f"blobs/{items}")).status_code == 200

    agent, node = await join("n1"), await deck.as_role("agent", "n1")

    async def readable() -> tuple[int, int]:
        return (await node.get(f"blobs/{rows}")).status_code, (await node.get(f"blobs/{items}")).status_code

    assert await readable() == (403, 403), "a node without a job"
    decision = DecisionRecord(why_weights="a test")
    evaluate = EvaluateSpec(tenant="acme", release=await deck.release(), suite=suite)
    train = TrainSpec(tenant="acme", name="s", base=BASE.digest, datasets=(dataset,), decision=decision)
    for spec, expected in ((evaluate, (403, 200)), (train, (200, 200))):
        submitted = await deck.ok("POST", "jobs", JobRequest(spec=spec).model_dump(mode="json"))
        assigned = await until(lambda job=submitted["id"]: agent.jobs.get(job), "assigned")
        assert await readable() == expected, spec.kind
        await agent.say(assigned, ExecutorEventType.FAILED, code="bad_spec")
        await until(lambda job=submitted["id"]: deck.hub.jobs.get(job).ended_ms, "over")  # type: ignore[union-attr]
        assert await readable() == (403, 403), f"after {spec.kind}"
    assert (await idle.get(f"blobs/{rows}")).status_code == 403


async def test_the_published_description_names_every_call(deck: Deck) -> None:
    document = (await deck.local.get("http://hub/openapi.json")).json()
    assert "/v1/tenants/{tenant}/routes/{route}/rollback" in document["paths"]
    assert "RollbackRequest" in json.dumps(document["components"])
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            assert call.get("summary"), (method, path)


async def test_a_tenant_over_its_quota_registers_no_further_version_until_one_is_deprecated(deck: Deck) -> None:
    await deck.tenant()
    first = await deck.release(seed=1)
    use = await deck.ok("PUT", "tenants/acme/quota?reason=small", {"adapters": 1, "bytes": 10**9})
    assert (use["adapters"], use["quota"]["adapters"]) == (1, 1)
    assert use["bytes"] > 0
    manifest = (await deck.adapter_manifest(seed=2)).model_dump(mode="json")
    problem = await deck.refused(409, "over_quota", "POST", "adapters/acme/support/versions", manifest)
    assert problem.detail == "1 adapter versions of 1"
    assert await deck.release(seed=1) == first, "what is registered stays so"
    adapter = deck.hub.catalogue.releases[first].adapter
    stated = {"from_ms": 0, "reason": "old"}
    deprecated = {"kind": "deprecation", "subject": adapter, "tenant": "acme", "body": stated, "by": ""}
    await deck.ok("POST", "attestations", deprecated)
    await deck.ok("POST", "adapters/acme/support/versions", manifest)
    await deck.ok("PUT", "tenants/acme/quota?reason=one+more", {"adapters": 2})
    beside = [(await deck.adapter_manifest(seed=seed)).model_dump(mode="json") for seed in (3, 4)]
    path = "adapters/acme/support/versions"
    replies = await asyncio.gather(*(deck.local.post(path, json=one) for one in beside))
    assert sorted(reply.status_code for reply in replies) == [200, 409], "what is asked at once counts, too"
    own = await deck.client_of("releaser", "acme")
    await deck.refused(403, "forbidden", "PUT", "tenants/acme/quota", {}, own)
