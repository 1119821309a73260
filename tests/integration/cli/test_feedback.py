"""`loradeck feedback` and `loradeck backlog` against a real hub: imported, listed, erased, and chosen for labelling."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import httpx
from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode

from loradeck.schemas.ids import short
from loradeck.schemas.responses import DatasetEntry
from loradeck.schemas.trace import Sample


def test_feedback_is_imported_listed_and_erased(desk: Desk, tenant: str, node: SmallNode) -> None:
    rows = [
        {"request": "r-1", "kind": "thumb", "value": "down"},
        {"request": "r-2", "kind": "correction", "text": "Ask jo@example.org instead."},
    ]
    file = desk.root / "feedback.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = desk.run("feedback", "import", tenant, file, "--route", "production")
    assert done.returncode == 1
    assert f"{tenant} keeps no feedback" in done.stderr
    assert desk.run("tenant", "data", tenant, "--feedback-days", "30", "--reason", "asked").returncode == 0
    done = desk.run("feedback", "import", tenant, file, "--route", "production")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 rows are kept, 2 of them wait for the answer ledger\n"

    assert desk.run("feedback", "ls", tenant).stdout == "no feedback\n"
    waiting = desk.json("feedback", "ls", tenant, "--waiting")
    assert [(one["request"], one["text"]) for one in waiting] == [("r-1", ""), ("r-2", "Ask [e-mail] instead.")]
    done = desk.run("feedback", "erase", tenant, "--containing", "ASK", "--yes")
    assert done.stdout == "1 rows are removed\n"
    assert desk.run("feedback", "erase", tenant, "--yes").returncode == 2


def test_a_malformed_file_is_refused_with_its_row_and_nothing_is_imported(
    desk: Desk, tenant: str, node: SmallNode
) -> None:
    file = desk.root / "bad.jsonl"
    file.write_text('{"request": "r-1", "kind": "thumb", "value": "up"}\n{"request": "r-2", "kind": "thumb"}\n')
    done = desk.run("feedback", "import", tenant, file, "--route", "production")
    assert done.returncode == 2
    assert "row 2" in done.stderr
    assert "up or down" in done.stderr


def test_bad_answers_are_chosen_labelled_and_built_into_a_dataset_where_tenant_and_caller_agreed(
    desk: Desk, tenant: str, node: SmallNode, tmp_path: Path
) -> None:
    release = give_feedback(desk, tenant, node)
    tasks, held = tmp_path / "tasks.json", tmp_path / "held.jsonl"
    held.write_text(
        json.dumps({"id": "i1", "prompt": "How long does the refund take at your shop in Rome?", "answer": "a"})
    )
    provenance = ("--licence", "customer-owned", "--consent", "contract", "--purpose", "evaluate", "--origin", "human")
    desk.json("suite", "add", held, "--tenant", tenant, "--name", "heldout", *provenance)

    found = desk.json("backlog", "ls", tenant, "--consent", "improve")
    assert [(one["request"], one["proposed"], one["release"]) for one in found["rows"]] == [
        ("r-2", "Five days.", release)
    ]
    assert {tuple(one["requests"]): one["why"].split(":")[0] for one in found["left_out"]} == {
        ("r-1",): "no consent to training",
        ("r-5",): "no consent to training",
        ("r-3",): "contaminated",
        ("r-4",): "no question",
    }
    export = ("backlog", "export", tenant, tasks, "--consent", "improve", "--sample-consent", "contract")
    assert "labelling" in desk.refused(1, "use_not_allowed", *export)["fix"]
    desk.run("tenant", "data", tenant, "--use", "labelling=better answers@eu", "--reason", "they agreed")
    done = desk.run(*export)
    assert done.returncode == 0, done.stderr
    assert f"{tenant} allows labelling for better answers, in eu alone\n" in done.stdout
    assert f"2 tasks are in {tasks}" in done.stdout
    assert (tasks.stat().st_mode & 0o777, tasks.with_suffix(".xml").stat().st_mode & 0o777) == (0o600, 0o600)
    made = {one["data"]["request"]: one for one in json.loads(tasks.read_text())}
    assert made["r-2"]["predictions"][0]["result"][0]["value"] == {"text": ["Five days."]}
    assert (made["r-2"]["data"]["question"], made["r-2"]["data"]["answered"]) == ("How long does it take?", "no")
    assert (made["r-5"]["data"]["alone"], made["r-5"]["data"]["consent"]) == (True, "contract")
    named = set(re.findall(r"\$(\w+)", tasks.with_suffix(".xml").read_text()))
    assert named <= made["r-2"]["data"].keys()

    build = ("backlog", "build", tenant, tasks, "--name", "mended", "--licence", "customer-owned", "--purpose", "train")
    build += ("--tier", "internal", "--consent", "improve", "--sample-consent", "contract")
    assert "unlabelled" in desk.refused(1, "backlog_refused", *build)["detail"]
    result = [{"from_name": "label", "type": "textarea", "value": {"text": ["In five days."]}}]
    done = made["r-2"] | {"id": 1, "annotations": [{"id": 1, "completed_by": 3, "result": result}]}
    tasks.write_text(json.dumps([done, made["r-5"] | {"id": 2, "annotations": []}]))
    assert "r-5" in desk.refused(1, "backlog_refused", *build)["detail"]
    assert desk.json("dataset", "ls", "--tenant", tenant) == []
    digest = desk.json(*build, "--leave-out")["digest"]
    (entry,) = [DatasetEntry.model_validate(one) for one in desk.json("dataset", "ls", "--tenant", tenant)]
    assert (entry.digest, entry.manifest.rows, entry.manifest.provenance.consent) == (digest, 1, "improve")
    assert f"loop: 1 rows of the backlog in mended {short(digest)}: labelled" in desk.run("freshness", tenant).stdout
    node.samples = (*node.samples, again(node.samples[1], "r-6"))
    found = desk.json("backlog", "ls", tenant, "--consent", "improve", "--sample-consent", "contract")
    assert [one["request"] for one in found["rows"]] == ["r-5"], (
        "what is labelled does not come back as another request"
    )
    left_out = desk.json("backlog", "ls", tenant, "--consent", "improve")["left_out"]
    assert ("labelled already", ["r-2"]) in [(one["why"].split(":")[0], one["requests"]) for one in left_out]

    desk.json("tenant", "create", f"{tenant}-other")
    theirs = ("--hub", desk.url, "--token-file", desk.token("releaser", "--tenant", f"{tenant}-other"))
    desk.refused(6, "forbidden", *build, *theirs)
    assert (
        "wrong tenant"
        in desk.refused(1, "backlog_refused", "backlog", "build", f"{tenant}-other", *build[3:])["detail"]
    )
    desk.run("feedback", "erase", tenant, "--request", "r-2", "--yes")
    assert "withdrawn" in desk.refused(1, "backlog_refused", *build, "--leave-out")["detail"]
    forged = {"alone": True, "proposed": "", "sample_ms": done["data"]["at_ms"]}
    tasks.write_text(json.dumps([done | {"data": done["data"] | forged}]))
    assert "withdrawn" in desk.refused(1, "backlog_refused", *build)["detail"]


def test_a_backlog_is_for_nobody_of_another_tenant_and_an_empty_one_is_not_written(
    desk: Desk, tenant: str, node: SmallNode, tmp_path: Path
) -> None:
    give_feedback(desk, tenant, node)
    other = f"{tenant}-other"
    desk.json("tenant", "create", other)
    for token in (desk.token("releaser", "--tenant", other), desk.token("viewer")):
        for words in (("ls", tenant), ("export", tenant, tmp_path / "tasks.json")):
            asked = ("backlog", *words, "--consent", "improve", "--hub", desk.url, "--token-file", token)
            assert desk.refused(6, "forbidden", *asked)
    problem = desk.refused(1, "no_backlog", "backlog", "export", tenant, tmp_path / "tasks.json")
    assert "no consent to training" in problem["detail"]
    assert not list(tmp_path.glob("tasks*"))


def again(sample: Sample, request: str) -> Sample:
    return sample.model_copy(update={"request": request})


def give_feedback(desk: Desk, tenant: str, node: SmallNode) -> str:
    """r-1 is corrected without a consent, r-2 to r-4 with one; nobody says anything of r-5. Returns their release."""
    policy = ("--ledger-days", "0", "--feedback-days", "30", "--sample-hours", "48", "--reason", "asked")
    assert desk.run("tenant", "data", tenant, *policy).returncode == 0
    release, at_ms = desk.row(tenant).live.id, time.time_ns() // 1_000_000
    told = {"kind": "correction", "route": "production", "at_ms": at_ms, "caller": "c" * 16, "release": release}
    rows = [
        told | {"request": "r-1", "text": "Six days."},
        told | {"request": "r-2", "text": "Five days.", "consent": "improve"},
        told | {"request": "r-3", "text": "Four days.", "consent": "improve"},
        told | {"request": "r-4", "text": "Three days.", "consent": "improve"},
    ]
    asked = {
        "r-1": "And now?",
        "r-2": "How long does it take?",
        "r-3": "how long does the refund take at your shop in rome",
        "r-5": "Where is my parcel?",
    }
    bearer = {"authorization": f"Bearer {desk.token('agent', '--node', node.name).read_text().strip()}"}
    answer = httpx.post(f"{desk.url}/v1/tenants/{tenant}/feedback", json={"rows": rows}, headers=bearer)
    assert answer.json() == {"kept": 4, "waiting": 0, "refused": []}
    told = {"tenant": tenant, "route": "production", "release": release, "at_ms": at_ms, "fault": "schema"}
    node.samples = tuple(
        Sample.model_validate(told | {"request": request, "question": f"user: {question}", "answer": "no"})
        for request, question in asked.items()
    )
    return release
