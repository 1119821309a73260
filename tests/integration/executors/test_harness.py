"""Tasks of lm-eval and inspect-ai in an environment of the operator's, by a program that speaks their files."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.harness import write_stub
from tests.integration.executors.running import SUITE, Bench, Ended, bare, write_rows

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.suite_items import groups_in, harness_in, items_in
from loradeck.schemas.attestation import EngineBuild, EvaluationReport
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK
from loradeck.schemas.jobs import EvaluateSpec
from loradeck_agent.executors.evaluation.harness import _address

BUILD = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")
TASK = {"harness": "lm-eval", "task": "tickets", "metric": "acc", "items": 4}
INSPECT = {"harness": "inspect-ai", "task": "tickets.py@tickets", "metric": "match", "items": 4}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bare(tmp_path_factory.mktemp("harness"))


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Right about every second question."""
    number = int(question["body"]["messages"][-1]["content"].split()[-1])
    return {"body": {"model": "m", "choices": [{"message": {"content": "no" if number % 2 else "yes"}}]}}


def run(bench: Bench, task: dict[str, Any], *, known: bool = True, **changes: Any) -> Ended:
    suite = write_rows(bench.root / "task.jsonl", [task])
    python = write_stub(bench.root / "python")
    spec = EvaluateSpec(tenant="acme", release=bench.release(None), suite=SUITE, **changes)
    harnesses = {str(task["harness"]): (str(python), str(bench.root))} if known else {}
    with bench.door(answer, BUILD, scores=False) as door:
        return bench.run(spec, {SUITE: str(suite)}, engine=door, harnesses=harnesses)


@pytest.mark.parametrize(
    ("task", "said"),
    [(TASK, "lm-eval 0.4.13, tickets 1.0, acc"), (INSPECT, "inspect-ai 0.3.285, tickets.py@tickets 0, match")],
)
def test_a_harness_asks_the_release_and_its_samples_become_an_evaluation_report(
    bench: Bench, task: dict[str, Any], said: str
) -> None:
    ended = run(bench, task)
    assert ended.status == EXIT_OK, ended.last
    report = EvaluationReport.model_validate_json((ended.out / "report.json").read_bytes())
    assert [(item.exact, "yes" in item.answer) for item in report.items] == [(True, True), (False, False)] * 2
    assert len({item.id for item in report.items}) == 4
    assert (report.n, report.exact, report.valid, report.engine, report.harness) == (4, 2, 4, BUILD, said)
    given = json.loads((ended.folder / "harness" / "environment.txt").read_text())
    assert {name: given[name] for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")} == {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }
    assert given["HF_HOME"] == str(bench.root / "huggingface")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"task": "boom"}, "harness_failed"),
        ({"metric": "f1"}, "bad_data"),
        ({"known": False}, "no_harness"),
    ],
)
def test_a_harness_that_fails_or_is_not_here_or_has_another_metric_ends_the_job_with_its_code(
    bench: Bench, change: dict[str, Any], code: str
) -> None:
    known = change.pop("known", True)
    ended = run(bench, TASK | change, known=known)
    assert ended.last.code == code, ended.last
    assert (ended.status == EXIT_BAD_SPEC) is (code != "harness_failed")


def test_the_address_answers_whoever_has_its_key(bench: Bench) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "question 2"}]}).encode()
    with bench.door(answer, BUILD, scores=False) as door, _address(door) as (url, key):

        def ask(given: str) -> Any:
            head = {"authorization": f"Bearer {given}"}
            with urllib.request.urlopen(urllib.request.Request(f"{url}/chat/completions", body, head)) as reply:
                return json.load(reply)["choices"][0]["message"]["content"]

        assert ask(key) == "yes"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask("another")


def test_a_suite_names_a_harness_in_its_one_row_and_has_no_items_here(tmp_path: Path) -> None:
    paths = {"task.jsonl": write_rows(tmp_path / "task.jsonl", [TASK])}
    task = harness_in(paths)
    assert task is not None
    assert (task.task, task.items, items_in(paths), dict(groups_in(paths).slices)) == ("tickets", 4, [], {})
    own = {"own.jsonl": write_rows(tmp_path / "own.jsonl", [{"id": "i", "prompt": "p", "answer": "a"}])}
    assert harness_in(own) is None
    for rows in ([TASK, TASK], [TASK | {"task": "../x"}], [TASK | {"harness": "another"}]):
        with pytest.raises(BadArtifact) as refused:
            items_in({"bad.jsonl": write_rows(tmp_path / "bad.jsonl", rows)})
        assert refused.value.code == "bad_rows"
