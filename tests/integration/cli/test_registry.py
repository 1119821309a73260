"""Bases, datasets, suites, adapters and routes: bad files are refused here, and the hub keeps nothing of them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file, save_file
from tests.integration.cli.conftest import MODULES, Desk, write_adapter, write_base
from tests.integration.cli.small_node import SmallNode

from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.capacity import CapacityPlan, CapacityRow
from loradeck.schemas.manifest import AdapterVersion
from loradeck.schemas.pool import PlacementExplained, PoolRow
from loradeck.schemas.responses import BaseEntry, DatasetEntry, SuiteEntry
from loradeck.schemas.route import Pooled, RouteConfig
from loradeck.schemas.tenant import Quota, QuotaUse, TenantState

PROVENANCE = (
    "--source",
    "a test",
    "--tier",
    "public",
    "--origin",
    "human",
    "--consent",
    "own",
    "--licence",
    "Apache-2.0",
    "--purpose",
    "train",
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"id": f"i{n}", "prompt": f"p{n}", "answer": "a"}) + "\n" for n in range(5)))
    return file


def test_a_dataset_is_registered_with_its_rows_and_provenance(desk: Desk, tenant: str, rows: Path) -> None:
    first = desk.json("dataset", "add", rows, "--tenant", tenant, "--name", "train", *PROVENANCE)
    assert desk.json("dataset", "add", rows, "--tenant", tenant, "--name", "train", *PROVENANCE) == first
    (entry,) = [DatasetEntry.model_validate(e) for e in desk.json("dataset", "ls", "--tenant", tenant)]
    assert entry.digest == first["digest"] == entry.manifest.digest
    assert (entry.manifest.rows, entry.manifest.provenance.licence_class) == (5, "Apache-2.0")


def test_provenance_comes_from_the_file_beside_the_rows_and_options_win(desk: Desk, tenant: str, rows: Path) -> None:
    rows.with_suffix(".toml").write_text(
        'source = "t"\ntier = "public"\n'
        'origin = "synthetic"\nsynthetic_depth = 1\nconsent = "own"\nlicence_class = "MIT"\npurpose = ["train"]\n'
    )
    desk.json("dataset", "add", rows, "--tenant", tenant, "--name", "made", "--licence", "Apache-2.0")
    (entry,) = [DatasetEntry.model_validate(e) for e in desk.json("dataset", "ls", "--tenant", tenant)]
    provenance = entry.manifest.provenance
    assert (provenance.origin, provenance.synthetic_depth, provenance.licence_class) == ("synthetic", 1, "Apache-2.0")


@pytest.mark.parametrize(
    ("content", "words", "what", "where"),
    [
        ('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n', PROVENANCE, "no 'answer'", "line 2"),
        ('{"prompt": "a", "answer": "b"}\nnot json\n', PROVENANCE, "not JSON", "line 2"),
        ("[1]\n", PROVENANCE, "not a JSON object", "line 1"),
        ('{"messages": []}\n{"prompt": "a", "chosen": "b"}\n', PROVENANCE, "no 'rejected'", "line 2"),
        ("", PROVENANCE, "no rows", ""),
        ('{"prompt": "a", "answer": "b"}\n', (), "consent: is missing", "provenance"),
        ('{"prompt": "a", "answer": "b"}\n', (*PROVENANCE, "--retention-days", "0"), "retention_days", ""),
    ],
)
def test_rows_that_are_not_right_are_refused_with_their_line(
    desk: Desk, tenant: str, rows: Path, content: str, words: tuple[str, ...], what: str, where: str
) -> None:
    rows.write_text(content)
    problem = desk.refused(2, "usage", "dataset", "add", rows, "--tenant", tenant, "--name", "bad", *words)
    assert what in problem["title"] or what in problem["detail"]
    assert where in problem["detail"]
    assert desk.json("dataset", "ls", "--tenant", tenant) == []


def test_a_suite_has_unique_ids_canaries_among_them_and_a_schema_that_is_json(
    desk: Desk, tenant: str, rows: Path, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "string"}')
    add = ("suite", "add", rows, "--tenant", tenant, "--name", "heldout", *PROVENANCE)
    desk.json(*add, "--canary", "i1", "--canary", "i3", "--answer-schema", schema)
    (entry,) = [SuiteEntry.model_validate(e) for e in desk.json("suite", "ls", "--tenant", tenant)]
    assert (entry.manifest.items, entry.manifest.canaries) == (5, ("i1", "i3"))
    assert entry.manifest.answer_schema == '{"type": "string"}'
    desk.refused(2, "manifest_mismatch", *add, "--canary", "i9")
    schema.write_text("{")
    desk.refused(2, "usage", *add, "--answer-schema", schema)
    rows.write_text(rows.read_text() + '{"id": "i0", "prompt": "p", "answer": "a"}\n')
    assert "'i0'" in desk.refused(2, "bad_rows", *add)["title"]
    rows.write_text('{"id": "r", "prompt": "p", "kind": "refusal"}\n{"id": "c", "prompt": "p", "kind": "choice"}\n')
    problem = desk.refused(2, "bad_rows", *add)
    assert problem["title"] == "a choice item needs two or more different choices"
    assert problem["detail"] == "rows.jsonl, line 2"
    assert len(desk.json("suite", "ls", "--tenant", tenant)) == 1


def test_a_base_is_known_by_the_digest_of_its_files(desk: Desk, base: str, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "copy")
    again = desk.json("base", "add", folder, "--model-id", "other/name", "--revision", "9")
    assert again["digest"] == base
    (folder / "config.json").write_text('{"model_type": "llama", "changed": true}')
    other = desk.json("base", "add", folder, "--model-id", "tests/tiny", "--revision", "2")
    assert other["digest"] != base
    assert other["label"] != again["label"]
    entries = [BaseEntry.model_validate(e) for e in desk.json("base", "ls")]
    assert {e.digest for e in entries} >= {base, other["digest"]}
    desk.refused(2, "usage", "base", "add", folder)
    desk.refused(2, "bad_artifact", "base", "add", tmp_path / "none", "--model-id", "a/b", "--revision", "1")


def test_an_adapter_is_imported_as_the_next_version(desk: Desk, tenant: str, base: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "new", 9)
    (folder / "tokenizer.json").write_text("{}")  # peft leaves more than engines read
    add = ("adapter", "import", folder, "--tenant", tenant, "--name", "words", "--base", base[:8], "--why", "shorter")
    made = AdapterVersion.model_validate(desk.json(*add))
    assert made.version == 4
    assert [entry.path for entry in made.manifest.files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert AdapterVersion.model_validate(desk.json(*add)) == made
    assert len(desk.json("adapter", "ls", tenant, "words")) == len(desk.json("adapter", "ls", tenant)) == 4
    assert made.digest in [version["digest"] for version in desk.json("adapter", "ls")]
    assert desk.json("adapter", "ls", tenant, "others") == []
    assert AdapterVersion.model_validate(desk.json("adapter", "show", tenant, "words", "v4")) == made
    lineage = desk.json("adapter", "lineage", tenant, "words", "v4")
    assert [AdapterVersion.model_validate(step["version"]) for step in lineage["lineage"]] == [made]
    assert lineage["complete"] is True
    (folder / "manifest.json").write_text(made.manifest.model_dump_json())
    short = ("adapter", "import", folder, "--tenant", tenant, "--name", "words")
    assert AdapterVersion.model_validate(desk.json(*short)) == made
    desk.refused(2, "usage", "adapter", "import", folder, "--tenant", tenant, "--name", "other")


def test_what_a_trainer_leaves_beside_an_adapter_is_left_out_and_named(
    desk: Desk, tenant: str, base: str, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "trained")
    for name in ("training_args.bin", "optimizer.pt", "rng_state_0.pth"):
        (folder / name).write_bytes(b"\x80\x04")
    options = ("--tenant", tenant, "--name", "trainer", "--base", base, "--why", "x")
    done = desk.run("adapter", "import", folder, *options)
    assert "left out, since no adapter needs it: optimizer.pt, rng_state_0.pth, training_args.bin" in done.stdout
    (version,) = desk.json("adapter", "ls", tenant, "trainer")
    assert {file["path"] for file in version["manifest"]["files"]} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_a_trainers_folder_of_an_expression_and_a_fractional_alpha_is_imported_and_dora_is_to_be_merged(
    desk: Desk, tenant: str, base: str, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "trained")
    (folder / "training_args.bin").write_bytes(b"\x80\x04")
    config = json.loads((folder / "adapter_config.json").read_text())
    changed = {"target_modules": r".*_proj", "lora_alpha": 4.5, "use_rslora": True}
    (folder / "adapter_config.json").write_text(json.dumps(config | changed))
    options = ("--tenant", tenant, "--name", "other", "--base", base, "--why", "x")
    manifest = desk.json("adapter", "import", folder, *options)["manifest"]
    assert (manifest["alpha"], manifest["target_modules"]) == (4.5, sorted(MODULES))
    tensors = load_file(folder / "adapter_model.safetensors")
    lengths = {
        f"{k[:-14]}.lora_magnitude_vector": numpy.ones(len(v), "float32") for k, v in tensors.items() if "lora_B" in k
    }
    save_file(tensors | lengths, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    done = desk.run("adapter", "import", folder, *options)
    assert f"no engine serves DoRA: loradeck job merge {tenant} v2, and promote v2m" in done.stdout
    assert "(DoRA: to be merged)" in desk.run("adapter", "show", tenant, "other", "v2").stdout


def test_a_bad_adapter_is_refused_here_and_the_hub_has_no_version_of_it(
    desk: Desk, tenant: str, base: str, tmp_path: Path
) -> None:
    def refused(code: str, folder: Path, **options: str) -> None:
        words = {"--tenant": tenant, "--name": "words", "--base": base, "--why": "x"} | options
        desk.refused(1 if code == "unknown_base" else 2, code, "adapter", "import", folder, *sum(words.items(), ()))

    pickled = write_adapter(tmp_path / "pickled")
    (pickled / "more_weights.bin").write_bytes(b"\x80\x04")
    refused("pickle_in_adapter", pickled)
    cut = write_adapter(tmp_path / "cut")
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused("truncated_safetensors", cut)
    dora = write_adapter(tmp_path / "dora")
    config = json.loads((dora / "adapter_config.json").read_text()) | {"use_dora": True}
    (dora / "adapter_config.json").write_text(json.dumps(config))
    refused("unsupported_adapter", dora)  # without its magnitudes
    linked = write_adapter(tmp_path / "linked")
    (linked / "README.md").symlink_to("/etc/passwd")
    refused("path_traversal", linked)
    refused("usage", tmp_path / "none")
    refused("unknown_base", write_adapter(tmp_path / "fine"), **{"--base": "deadbeef"})
    assert len(desk.json("adapter", "ls", tenant, "words")) == 3


def test_a_route_is_set_from_a_file_and_flags_change_one_thing(
    desk: Desk, tenant: str, rows: Path, tmp_path: Path
) -> None:
    desk.json("suite", "add", rows, "--tenant", tenant, "--name", "gate", *PROVENANCE)
    file = tmp_path / "route.toml"
    file.write_text(
        'min_replicas = 2\nplacement = { site = "eu-1" }\n[gate]\nsuite = "gate"\nmin_exact = 0.8\nmax_drop = 0\n'
    )
    kept = RouteConfig.model_validate(desk.json("route", "set", tenant, "staging", "--file", file))
    assert kept.gate is not None
    assert (kept.min_replicas, kept.placement, kept.gate.min_exact) == (2, {"site": "eu-1"}, 0.8)
    changed = desk.json("route", "set", tenant, "staging", "--min-replicas", 3, "--canary", "hello")
    expected = kept.model_copy(update={"min_replicas": 3, "canaries": (({"role": "user", "content": "hello"},),)})
    assert RouteConfig.model_validate(changed) == expected
    assert RouteConfig.model_validate(desk.json("route", "show", f"{tenant}/staging", "--settings")) == expected
    file.write_text("min_replica = 2\n")
    assert "min_replica" in desk.refused(2, "usage", "route", "set", tenant, "staging", "--file", file)["title"]
    desk.refused(1, "unknown_suite", "route", "set", tenant, "staging", "--gate-suite", "none")
    state = TenantState.model_validate(desk.json("tenant", "show", tenant))
    assert state.routes["staging"] == expected
    assert set(state.routes) == {"production", "staging"}


def test_a_pool_is_set_listed_and_removed_and_a_route_goes_into_it_and_out_again(desk: Desk, tenant: str) -> None:
    made = PoolRow.model_validate(desk.json("pool", "set", "eu", "--label", "site=eu", "--hardware", "H100"))
    assert (made.config.labels, made.config.hardware, made.nodes) == ({"site": "eu"}, "H100", ())
    assert [PoolRow.model_validate(row) for row in desk.json("pool", "ls")] == [made]
    desk.json("route", "set", tenant, "pooled", "--placement", "site=us")
    asked = ("--pool", "eu", "--replicas", 2, "--spread", "zone")
    kept = RouteConfig.model_validate(desk.json("route", "set", tenant, "pooled", *asked))
    assert (kept.pool, kept.placement) == (Pooled(pool="eu", replicas=2, spread="zone"), {})
    assert "pool eu: no node yet" in desk.run("tenant", "show", tenant).stdout
    assert PoolRow.model_validate(desk.json("pool", "show", "eu")).routes == 1
    desk.refused(1, "not_pooled", "placement", "explain", tenant)
    explained = PlacementExplained.model_validate(desk.json("placement", "explain", f"{tenant}/pooled"))
    assert (explained.replicas, explained.choices) == (2, ())
    assert "no node of the pool" in desk.run("placement", "explain", f"{tenant}/pooled").stdout
    assert desk.json("placement", "preview", "--with-slots", 4, "--pool", "eu")["total"] == 1
    assert f"{tenant}/pooled: - > one-more" in desk.run("placement", "preview", "--with-slots", 4).stdout
    desk.refused(2, "usage", "placement", "preview")
    desk.refused(1, "unknown_node", "placement", "preview", "--without", "n9")
    desk.refused(1, "pool_in_use", "pool", "rm", "eu")
    assert RouteConfig.model_validate(desk.json("route", "set", tenant, "pooled", "--pool", "")).pool is None
    desk.json("pool", "rm", "eu", "--reason", "unused")
    desk.refused(1, "unknown_pool", "pool", "show", "eu")


def test_capacity_is_listed_and_new_customers_and_a_promote_are_planned(
    desk: Desk, tenant: str, node: SmallNode
) -> None:
    desk.json("pool", "set", "every")
    rows = [CapacityRow.model_validate(row) for row in desk.json("capacity")]
    assert [(row.name, row.pool) for row in rows] == [("every", True), (node.name, False)]
    assert rows == [CapacityRow.model_validate(row) for row in desk.json("capacity", "ls")]
    listed = desk.run("capacity").stdout.splitlines()
    assert listed[0].split()[:3] == ["NAME", "NODES", "ROUTES"]
    assert listed[1].split()[:3] == ["pool", "every", "1/1"]
    found = CapacityPlan.model_validate(desk.json("capacity", "plan", "--pool", "every"))
    assert (found.fits, found.total) == (True, 0)
    slots = rows[0].host[1] if rows[0].host is not None else 0
    short = desk.run("capacity", "plan", "--pool", "every", "--routes", slots, "--always")
    assert short.returncode == 1
    assert short.stdout.startswith(f"{slots} new in every: does not fit on {node.name}; ")
    assert f"with one more node of {slots} slots: " in short.stdout
    fits = desk.run("capacity", "plan", tenant, "v1").stdout
    assert fits.startswith(f"{tenant}/production to v1: fits; no route would be colder")
    for wrong in ((), ("--pool", "every", tenant, "v1"), (tenant, "v1", "--routes", 2)):
        desk.refused(2, "usage", "capacity", "plan", *wrong)
    desk.json("route", "set", tenant, "pooled", "--pool", "every")
    told = desk.run("node", "drain", node.name, "--yes").stdout
    desk.json("node", "uncordon", node.name)
    assert told.startswith("1 routes of pools leave it once others serve them; 0 would be colder")
    desk.json("route", "set", tenant, "pooled", "--pool", "")
    desk.json("pool", "rm", "every")


def test_a_quota_is_shown_set_in_part_and_ended(desk: Desk, tenant: str) -> None:
    assert QuotaUse.model_validate(desk.json("tenant", "quota", tenant)).quota == Quota()
    desk.json("tenant", "quota", tenant, "--adapters", 3, "--reason", "the small plan")
    use = QuotaUse.model_validate(desk.json("tenant", "quota", tenant, "--mb", 500))
    assert use.quota == Quota(adapters=3, bytes=500_000_000)
    use = QuotaUse.model_validate(desk.json("tenant", "quota", tenant, "--slots", 6, "--weights-mb", 1))
    assert use.quota == Quota(adapters=3, bytes=500_000_000, slots=6, weights=1_000_000)
    assert f"{use.slots} slots of 6" in desk.run("tenant", "quota", tenant).stdout
    assert "adapter versions of 3" in desk.run("tenant", "quota", tenant).stdout
    desk.refused(1, "no_change", "tenant", "quota", tenant, "--mb", 500)
    assert QuotaUse.model_validate(desk.json("tenant", "quota", tenant, "--no-limit")).quota == Quota()


def test_a_tenant_is_suspended_resumed_and_offboarded(desk: Desk, tenant: str) -> None:
    key = desk.json("tenant", "key", "create", tenant)
    assert key["key"]
    shown = desk.run("tenant", "show", tenant)
    assert key["id"] in shown.stdout
    assert key["key"] not in shown.stdout
    assert TenantState.model_validate(desk.json("tenant", "suspend", tenant, "--yes")).suspended
    assert desk.row(tenant).suspended
    assert not TenantState.model_validate(desk.json("tenant", "resume", tenant)).suspended
    desk.json("tenant", "key", "withdraw", tenant, key["id"], "--yes")
    assert TenantState.model_validate(desk.json("tenant", "show", tenant)).keys == ()
    assert TenantState.model_validate(desk.json("tenant", "offboard", tenant, "--yes")).offboarded
    desk.refused(2, "usage", "tenant", "create", "Not A Name")


def test_a_callers_key_goes_to_a_file_of_its_owners(desk: Desk, tenant: str, tmp_path: Path) -> None:
    out = tmp_path / "key"
    done = desk.run("tenant", "key", "create", tenant, "--out", out)
    assert done.returncode == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert out.read_text().strip() not in done.stdout + done.stderr


def test_the_suite_of_a_gate_is_the_tenants_own_although_another_has_a_newer_one_of_that_name(
    desk: Desk, tenant: str, rows: Path
) -> None:
    own = desk.json("suite", "add", rows, "--tenant", tenant, "--name", "twin", *PROVENANCE)["digest"]
    desk.json("tenant", "create", "neighbour")
    other = desk.json("suite", "add", rows, "--tenant", "neighbour", "--name", "twin", *PROVENANCE)["digest"]
    config = desk.json("route", "set", tenant, "staging", "--gate-suite", "twin", "--max-drop", "0")
    assert RouteConfig.model_validate(config).gate is not None
    assert config["gate"]["suite"] == own != other


def test_a_row_is_erased_as_it_was_planned(desk: Desk, tenant: str, rows: Path) -> None:
    rows.write_text('{"prompt": "mail me at Ann@example.org", "answer": "a"}\n{"prompt": "p", "answer": "a"}\n')
    made = desk.json(
        "dataset", "add", rows, "--tenant", tenant, "--name", "mails", "--accept-findings", "a test", *PROVENANCE
    )["digest"]
    planned = desk.json("dataset", "erase", "--containing", "ann@EXAMPLE.org", "--dry-run")
    assert [place["dataset"] for place in planned["places"]] == [made]
    other = f"{tenant}-other"
    desk.json("tenant", "create", other)
    words = ("dataset", "add", rows, "--tenant", other, "--name", "mails", "--accept-findings", "a test")
    desk.json(*words, *PROVENANCE, "--source", "backlog")
    alone = desk.run("dataset", "erase", planned["rows"][0], "--tenant", tenant, "--dry-run").stdout
    assert f"at another tenant: {other}/mails: " in alone
    planned = desk.json("dataset", "erase", planned["rows"][0], "--dry-run")
    desk.refused(2, "reason_required", "dataset", "erase", planned["rows"][0], "--yes")
    done = desk.json("dataset", "erase", planned["rows"][0], "--reason", "request 4", "--yes")
    assert (done["done"], done["digest"]) == (True, planned["digest"])
    said = desk.run("dataset", "erase", planned["rows"][0], "--reason", "again", "--yes").stdout
    assert "erased" in said
    assert f"stays: loradeck feedback erase {other} --request ID" in said
    desk.refused(1, "unknown_row", "dataset", "erase", "0" * 64, "--reason", "none", "--yes")


def test_rows_that_are_almost_items_of_a_suite_are_not_registered_without_a_reason(
    desk: Desk, tenant: str, rows: Path, tmp_path: Path
) -> None:
    question = "my parcel with the blue lamp and both chairs has not come although your page says it was brought"
    asked = [{"role": "user", "content": question}]
    rows.write_text(json.dumps({"id": "i1", "messages": asked, "answer": "a"}) + "\n")
    desk.json("suite", "add", rows, "--tenant", tenant, "--name", "heldout", *PROVENANCE)
    copy = tmp_path / "copy.jsonl"
    copy.write_text(json.dumps({"prompt": question.upper() + "?", "answer": "b"}) + "\n")
    add = ("dataset", "add", copy, "--tenant", tenant, "--name", "copied", *PROVENANCE)
    assert "line 1: heldout i1" in desk.refused(1, "contaminated", *add)["detail"]
    assert desk.json("dataset", "ls", "--tenant", tenant) == []
    done = desk.run(*add, "--accept-findings", "only the wording is tested")
    assert done.returncode == 0, done.stderr
    assert "not looked for: names" in done.stdout


def test_a_version_is_signed_with_a_key_by_its_path_and_a_route_is_told_whose_signatures_it_takes(
    desk: Desk, tenant: str, tmp_path: Path
) -> None:
    key = tmp_path / "k"
    made = desk.json("adapter", "key", key)
    assert key.stat().st_mode & 0o777 == 0o600
    desk.refused(2, "key_exists", "adapter", "key", key)
    desk.json("route", "set", tenant, "production", "--signer", f"{key}.pub")
    desk.refused(1, "unsigned", "adapter", "verify", tenant, "words", "v2")
    desk.refused(1, "unsigned", "promote", tenant, "v2", "--yes")
    desk.json("adapter", "sign", tenant, "words", "v2", "--key", key)
    shown = desk.run("adapter", "verify", tenant, "words", "v2").stdout
    assert f"holds: key {made['key'][:12]}" in shown
    key.chmod(0o644)
    desk.refused(2, "key_exposed", "adapter", "sign", tenant, "words", "v3", "--key", key)


def test_merged_weights_are_signed_by_their_listing_and_the_release_says_by_whom(
    desk: Desk, tenant: str, base: str, tmp_path: Path
) -> None:
    key = tmp_path / "k"
    made = desk.json("adapter", "key", key)["key"][:12]
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(tenant.encode())
    desk.json("base", "add", folder, "--model-id", f"{tenant}/merged", "--revision", "1")
    desk.json("release", "add", tenant, "v2", "--merged", f"{tenant}/merged")
    desk.refused(1, "not_merged", "sku", "set", "support", tenant, "v2")
    made_sku = desk.run("sku", "set", "support", tenant, "v2m", "--label", "site=eu", "--replicas", 2)
    assert f"SKU support is {tenant} v2m: 0 nodes run its weights" in made_sku.stdout
    assert f"next: loradeck promote {tenant} support v2m; callers ask for the model {tenant}/support" in made_sku.stdout
    (row,) = [PoolRow.model_validate(row) for row in desk.json("sku", "ls")]
    assert (row.pool, row.sku, row.routes, row.config.labels) == ("support", f"{tenant} v2m", 1, {"site": "eu"})
    assert f"SKU {tenant} v2m" in desk.run("pool", "show", "support").stdout
    desk.json("sku", "set", "support", tenant, "v2m", "--label", "site=eu", "--replicas", 1)
    assert desk.json("route", "show", f"{tenant}/support", "--settings")["pool"]["replicas"] == 1
    other = desk.json("pool", "set", "other", "--base", base[:8])
    assert "another base" in desk.refused(1, "exists", "sku", "set", "other", tenant, "v2m")["title"]
    assert desk.json("pool", "show", "other")["config"] == other["config"]
    desk.json("pool", "rm", "other")
    desk.json("route", "set", tenant, "support", "--pool", "")
    desk.json("pool", "rm", "support")
    assert "signed by   nobody" in desk.run("release", "show", tenant, "v2m").stdout
    desk.refused(1, "not_merged", "release", "sign", tenant, "v2", "--key", key)
    desk.json("release", "sign", tenant, "v2m", "--key", key)
    assert f"signed by   {made}" in desk.run("release", "show", tenant, "v2m").stdout
    assert "signed by   nobody" in desk.run("release", "show", tenant, "v2").stdout


def test_a_card_is_put_together_from_what_is_on_record_and_two_are_compared(
    desk: Desk, tenant: str, base: str, rows: Path, tmp_path: Path
) -> None:
    data = desk.json("dataset", "add", rows, "--tenant", tenant, "--name", "train", *PROVENANCE)["digest"]
    folder = write_adapter(tmp_path / "new", 9)
    add = ("adapter", "import", folder, "--tenant", tenant, "--name", "words", "--base", base[:8])
    why = ("--why", "shorter", "--limitations", "it has seen no French")
    made = AdapterVersion.model_validate(desk.json(*add, *why, "--dataset", data))
    suite = desk.json("suite", "add", rows, "--tenant", tenant, "--name", "judge", *PROVENANCE)["digest"]
    report = {"release": made.release, "suite": suite, "n": 4, "exact": 3, "valid": 4, "items": [], "seconds": 1.0}

    async def attest() -> None:
        async with desk.api() as api:
            kind = AttestationKind.EVALUATION
            await api.attest(Attestation(kind=kind, subject=made.release, tenant=tenant, body=report, by=""))

    asyncio.run(attest())
    figures = {"arc_easy": {"acc,none": 0.5, "acc_stderr,none": 0.05}}
    results = {"results": figures, "versions": {"arc_easy": 1.0}, "lm_eval_version": "0.4.13", "model_name": tenant}
    (tmp_path / "results.json").write_text(json.dumps(results))
    desk.json("release", "import-eval", tenant, "v4", tmp_path / "results.json")
    desk.refused(2, "bad_report", "release", "import-eval", tenant, "v4", folder / "adapter_config.json")
    card = desk.run("adapter", "card", tenant, "words", "v4").stdout
    for line in (
        "- lm-eval 0.4.13 arc_easy acc: 0.5 (0.402 to 0.598, n unknown); imported by ",
        f"# {tenant}/words v4",
        "- why in weights: shorter",
        f"## Data: {tenant}/train",
        "- rows: 5: 5 human, 0 by programs, 0 by models",
        "- scan found: nothing",
        "- run: none that the hub still lists",
        "exact 75.0% (30.1% to 95.4%, n = 4), valid 100.0% (51.0% to 100.0%, n = 4)",
        "- signed by: nobody",
        "- stated: it has seen no French",
        "- not looked at: answers, by people, rows that it gives away",
    ):
        assert line in card, line
    assert desk.run("adapter", "card", tenant, "words", "v4").stdout == card
    found = {
        d["what"]: (d["before"], d["after"])
        for d in desk.json("adapter", "diff", tenant, "words", "v3", "v4")["differences"]
    }
    assert found[f"Data: {tenant}/train: licence"] == ("-", "Apache-2.0")
    assert "Adapter: base" not in found
    assert desk.json("adapter", "diff", tenant, "words", "v4", "v4")["differences"] == []


def test_a_deprecated_version_is_promoted_until_its_day_and_its_users_are_shown(desk: Desk, tenant: str) -> None:
    live = desk.row(tenant).live
    assert live is not None
    shown = desk.run(
        "adapter", "deprecate", tenant, "words", live.label, "--from", "2199-01-01", "--reason", "new terms"
    )
    assert re.search(rf"{tenant}/production +serves it", shown.stdout), shown
    assert "deprecated: from 2199-01-01" in desk.run("adapter", "card", tenant, "words", live.label).stdout
    desk.json("adapter", "deprecate", tenant, "words", "v3", "--from", "2020-01-01", "--reason", "new terms")
    window = ("--from", "2199-01-01", "--until", "2199-02-01", "--reason", "new terms")
    assert "nobody yet" in desk.run("adapter", "deprecate", tenant, "words", live.label, *window).stdout
    assert "deprecated  from 2199-01-01 00:00:00Z until 2199-02-01" in desk.run("route", "show", tenant).stdout
    backwards = (*window[:3], "2198-01-01", *window[4:])
    assert desk.run("adapter", "deprecate", tenant, "words", live.label, *backwards).returncode == 2
    problem = desk.refused(1, "deprecated", "promote", tenant, "v3", "--yes")
    assert problem["detail"] == "new terms"
    assert desk.row(tenant).live == live
    assert desk.run("adapter", "deprecate", tenant, "words", "v3", "--from", "soon", "--reason", "x").returncode == 2


def test_conversations_and_pairs_are_rows_too(desk: Desk, tenant: str, rows: Path) -> None:
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    rows.write_text(json.dumps({"messages": talk}) + "\n" + '{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    desk.json("dataset", "add", rows, "--tenant", tenant, "--name", "talk", *PROVENANCE)
    (entry,) = desk.json("dataset", "ls", "--tenant", tenant)
    assert entry["manifest"]["rows"] == 2


def test_a_tenants_data_policy_is_shown_and_set_whole(desk: Desk, tenant: str) -> None:
    before = desk.json("tenant", "data", tenant)
    assert (before["synthetic_cap"], before["forbidden_licences"]) == (0.5, ["NONE", "NOASSERTION"])
    desk.json("tenant", "data", tenant, "--forbid-licence", "cc-by-nc-*", "--reason", "sold")
    after = desk.json("tenant", "data", tenant, "--synthetic-cap", "0.2")
    assert (after["synthetic_cap"], after["forbidden_licences"]) == (0.2, ["cc-by-nc-*"])
    desk.refused(2, "usage", "tenant", "data", tenant, "--synthetic-cap", "1.5")
    assert desk.json("tenant", "data", tenant) == after
    assert "may be used: they agreed" in desk.run("tenant", "data", tenant, "--lift-erasures", "they agreed").stdout
    assert desk.json("tenant", "data", tenant) == after | {"lift_erasures": "they agreed"}
    assert desk.json("tenant", "data", tenant, "--lift-erasures", "") == after


def test_a_collection_shows_its_plan_and_keeps_what_was_registered_lately(desk: Desk, tenant: str) -> None:
    plan = desk.json("hub", "collect", "--dry-run")
    assert plan["adapters"] == []
    if plan["files"]:  # of datasets with erased rows, whose time has come at once
        desk.run("hub", "collect", "--yes")
    desk.refused(1, "nothing_to_collect", "hub", "collect", "--yes")
    shown = desk.run("hub", "collect", "--older-than", "0", "--dry-run").stdout
    assert re.search(r"\d+ files", shown), shown


def test_whole_weights_have_a_card_and_those_for_all_tenants_are_not_deprecated(
    desk: Desk, tenant: str, base: str, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    write_base(own)
    (own / "config.json").write_text('{"model_type": "llama", "of": "a partner"}')
    made = desk.json("base", "add", own, "--model-id", f"{tenant}/own", "--revision", "1", "--tenant", tenant)
    views = {view["base"]: view for view in desk.json("release", "ls", tenant)}
    card = desk.run("release", "card", tenant, views[made["digest"]]["id"]).stdout
    for said in ("## Weights", f"- model: {made['label']}: {tenant}/own 1", f"- of: {tenant}", "- signed by: nobody"):
        assert said in card, card
    words = ("--from", "2020-01-01", "--reason", "left")
    assert "no pointer uses it" in desk.run("release", "deprecate", tenant, views[made["digest"]]["id"], *words).stdout
    assert "deprecated: from 2020-01-01" in desk.run("release", "card", tenant, views[made["digest"]]["id"]).stdout
    desk.refused(1, "unknown_adapter", "release", "deprecate", tenant, views[base]["id"], *words)
    adapted = desk.json("adapter", "show", tenant, "words", "v3")["release"]
    desk.refused(1, "not_merged", "release", "card", tenant, adapted)
