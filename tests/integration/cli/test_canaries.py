"""Canaries from the command line: suggested from a dataset's rows, and put in force."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from tests.integration.cli.conftest import Desk
from tests.integration.cli.test_registry import PROVENANCE

from loradeck.schemas.route import Suggestions
from loradeck.schemas.tenant import TenantState


@pytest.fixture
def tickets(desk: Desk, tenant: str, tmp_path: Path) -> Path:
    rows = [{"prompt": f"a {'telling' if n % 2 else 'dull'} prompt {n}", "answer": "yes"} for n in range(8)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    desk.json("dataset", "add", file, "--tenant", tenant, "--name", "tickets", *PROVENANCE)
    return file


def canaries(desk: Desk, tenant: str) -> list[str]:
    routes = TenantState.model_validate(desk.json("tenant", "show", tenant)).routes
    return [messages[-1]["content"] for messages in routes["production"].canaries]


def test_prompts_are_proposed_with_their_margins_and_applied_when_asked(desk: Desk, tenant: str, tickets: Path) -> None:
    before = canaries(desk, tenant)
    shown = desk.process("canary", "suggest", tenant, "v2", "--dataset", "tickets")
    assert shown.returncode == 0, shown.stderr
    assert "OVER the base alone" in shown.stdout
    assert "OVER v1" in shown.stdout
    (first, *_) = [line for line in shown.stdout.splitlines() if line.startswith("*")]
    assert first.split()[1:4] == ["rows.jsonl,", "line", first.split()[3]]
    assert first.count("2.25") == 3
    assert "telling" in first
    assert sum(line.startswith("*") for line in shown.stdout.splitlines()) == 3
    assert f"in force with: loradeck canary suggest {tenant} v2 --dataset tickets --apply" in shown.stdout
    assert canaries(desk, tenant) == before

    found = Suggestions.model_validate(
        desk.json("canary", "suggest", tenant, "v2", "--dataset", "tickets", "--apply", "--yes")
    )
    proposed = [one.messages[-1]["content"] for one in found.prompts if one.proposed]
    assert canaries(desk, tenant) == proposed
    assert all("telling" in prompt for prompt in proposed)


def test_where_no_row_tells_it_apart_that_is_status_1_and_nothing_changes(
    desk: Desk, tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "dull", "answer": "yes"}\n')
    desk.json("dataset", "add", file, "--tenant", tenant, "--name", "dull", *PROVENANCE)
    before = canaries(desk, tenant)
    done = desk.run("canary", "suggest", tenant, "v2", "--dataset", "dull", "--apply", "--yes")
    assert done.returncode == 1
    assert "no row tells v2 from the base alone or v1" in done.stdout
    assert canaries(desk, tenant) == before
    problem = desk.refused(1, "no_prompts", "canary", "suggest", tenant, "v2")
    assert "names no dataset that it was trained on" in problem["title"]


def test_what_somebody_recorded_of_a_release_is_listed_and_withdrawn_with_a_reason(desk: Desk, tenant: str) -> None:
    release = next(view["id"] for view in desk.json("release", "ls", tenant) if view["label"] == "v2")
    build = {"engine": "fake", "device": "cpu", "dtype": "float32"}
    item = {"prompt": "f" * 64, "tokens": [4, 2], "margins": [3.0, 3.0]}
    record = {"release": release, "build": build, "items": [item], "reason": "measured by hand"}
    body = {"kind": "canary", "subject": release, "tenant": tenant, "body": record, "by": ""}
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(desk.socket)), base_url="http://hub/v1/") as client:
        by = client.post("attestations", json=body).raise_for_status().json()["by"]
    line = next(line for line in desk.run("canary", "ls", tenant, "v2").stdout.splitlines() if "ffffff" in line)
    assert line.split()[1:] == [by, "fake", "ffffff", "4", "2", "yes"]
    assert desk.run("canary", "withdraw", tenant, "v2", "--by", by, "--yes").returncode == 2, "a reason is required"
    desk.refused(1, "refused", "canary", "withdraw", tenant, "v2", "--by", "nobody", "--reason", "x", "--yes")
    done = desk.run("canary", "withdraw", tenant, "v2", "--by", by, "--reason", "mistyped", "--yes")
    assert f"1 of {by}'s records" in done.stdout
    line = next(line for line in desk.run("canary", "ls", tenant, "v2").stdout.splitlines() if "ffffff" in line)
    assert line.split()[-1] == "no"
