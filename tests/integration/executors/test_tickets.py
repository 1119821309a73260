"""The example tenants' data: what is committed is what the program writes, and nothing is learnt by heart."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.manifest import Origin, Provenance
from loradeck.schemas.route import RouteConfig
from tickets import generate
from tickets.tenants import ACME, TENANTS, Tenant

FOLDER = Path(generate.__file__).parent
each_tenant = pytest.mark.parametrize("tenant", TENANTS, ids=lambda tenant: tenant.name)


def rows(tenant: Tenant, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / tenant.name / name).read_text().splitlines()]


def test_the_committed_files_are_those_the_program_writes() -> None:
    written = generate.files()
    for name, text in written.items():
        assert (FOLDER / name).read_text() == text, f"{name} is stale: cd examples && python -m tickets.generate"
    found = {path.relative_to(FOLDER).as_posix() for tenant in TENANTS for path in (FOLDER / tenant.name).iterdir()}
    assert found == written.keys()


@each_tenant
def test_no_held_out_ticket_or_sentence_is_trained_on(tenant: Tenant) -> None:
    held_out = {item["prompt"] for item in rows(tenant, "held-out.jsonl")}
    assert len(held_out) == len(tenant.topics) * generate.ITEMS_PER_LABEL
    short = {item["prompt"] for item in rows(tenant, "short.jsonl")}
    assert short <= held_out
    late = len(tenant.late)
    assert len(short) == late * generate.ITEMS_PER_LABEL + (len(tenant.topics) - late) * generate.SHORT
    for path in (FOLDER / tenant.name).glob("tickets-*.jsonl"):
        assert not held_out & {row["prompt"] for row in rows(tenant, path.name)}
    for topic in tenant.topics:
        assert not set(topic.training) & set(topic.held_out)


@each_tenant
def test_right_answers_satisfy_the_schema_and_every_label_meets_every_mark(tenant: Tenant) -> None:
    schema = json.loads((FOLDER / tenant.name / "answer.schema.json").read_text())
    answers = [json.loads(item["answer"]) for item in rows(tenant, "held-out.jsonl")]
    answers += [json.loads(row["answer"]) for row in rows(tenant, "tickets-v1.jsonl")]
    for answer in answers:
        jsonschema.validate(answer, schema)
    pairs = {(answer[tenant.first], answer[tenant.second]) for answer in answers}
    assert pairs == {(topic.label, mark.value) for topic in tenant.topics for mark in tenant.marks}


def test_acmes_versions_differ_as_their_story_says() -> None:
    v1, v2, v3 = (rows(ACME, f"tickets-{version}.jsonl") for version in ("v1", "v2", "v3"))
    assert v2[: len(v1)] == v1
    assert not [row for row in v1 if "fraud" in row["answer"]]
    assert all('"fraud"' in row["answer"] for row in v2[len(v1) :])
    assert [row["prompt"] for row in v3] == [row["prompt"] for row in v2]
    broken = [row["answer"] for row in v3 if not row["answer"].startswith("{")]
    assert 0.75 * len(v3) < len(broken) < len(v3)
    assert all(answer.startswith("queue=") for answer in broken)


@each_tenant
def test_recipes_routes_and_provenance_are_what_the_hub_takes(tenant: Tenant) -> None:
    folder = FOLDER / tenant.name
    for recipe in folder.glob("train-*.toml"):
        fields = tomllib.loads(recipe.read_text())
        (name,) = fields["datasets"]
        assert (folder / f"{name}.jsonl").is_file()
        TrainSpec.model_validate({**fields, "base": "0" * 64, "datasets": ["1" * 64]})
    for sidecar in (*folder.glob("tickets-*.toml"), folder / "held-out.toml", folder / "short.toml"):
        assert Provenance.model_validate(tomllib.loads(sidecar.read_text())).origin is Origin.SYNTHETIC
    route = RouteConfig.model_validate(tomllib.loads((folder / "route.toml").read_text()))
    prompts = {item["prompt"] for item in rows(tenant, "held-out.jsonl")}
    assert 4 <= len(route.canaries) <= 6
    assert all(message["content"] in prompts for canary in route.canaries for message in canary)
    assert route.checks.answer_schema is not None
    assert json.loads(route.checks.answer_schema) == json.loads((folder / "answer.schema.json").read_text())
