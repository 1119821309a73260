"""The real lm-eval and inspect-ai, run by an evaluate job on a task and data of the operator's, without a network.

`LORADECK_LM_EVAL` names the Python of an environment with `lm-eval[api]`, `LORADECK_INSPECT` of one with `inspect-ai`
and `openai`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.lm_eval_task import write_task
from tests.integration.executors.running import SUITE, bare

from loradeck.schemas.attestation import EngineBuild, EvaluationReport
from loradeck.schemas.executor import EXIT_OK
from loradeck.schemas.jobs import EvaluateSpec

pytestmark = pytest.mark.drawn(seconds=5)

BUILD = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")
INSPECT = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import match


@task
def tickets():
    return Task(dataset=[Sample(id=n, input=f"question {n}", target="yes") for n in range(8)], scorer=match())
"""
WAYS = {
    "lm-eval": ("LORADECK_LM_EVAL", "tickets", "exact_match", "lm-eval 0.4.", "tickets 1.0, exact_match"),
    "inspect-ai": ("LORADECK_INSPECT", "tickets.py@tickets", "match", "inspect-ai 0.3.", "tickets.py@tickets 0, match"),
}


@pytest.mark.parametrize("harness", WAYS)
def test_the_samples_of_a_harness_become_an_evaluation_report(harness: str, tmp_path: Path) -> None:
    variable, task, metric, version, said_of = WAYS[harness]
    if not (python := os.environ.get(variable)):
        pytest.skip(f"{variable} names no Python with {harness}")
    tasks = tmp_path / "tasks"
    rows = [{"question": f"question {n}", "answer": "yes"} for n in range(8)]
    write_task(tasks, "tickets", rows, {"until": ["\n"], "max_gen_toks": 16})
    (tasks / "tickets.py").write_text(INSPECT)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        assert question["body"]["temperature"] == 0
        number = int(question["body"]["messages"][-1]["content"].split()[-1])
        message = {"role": "assistant", "content": "yes" if number < 6 else "no"}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
        return {"body": {**body, "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}}

    bench = bare(tmp_path)
    suite = tmp_path / "task.jsonl"
    suite.write_text(json.dumps({"harness": harness, "task": task, "metric": metric, "items": 8}) + "\n")
    spec = EvaluateSpec(tenant="acme", release=bench.release(None), suite=SUITE, batch=4)
    with bench.door(answer, BUILD, scores=False) as door:
        places = {harness: (python, str(tasks))}
        ended = bench.run(spec, {SUITE: str(suite)}, engine=door, harnesses=places)
    assert ended.status == EXIT_OK, ended.last
    report = EvaluationReport.model_validate_json((ended.out / "report.json").read_bytes())
    assert (report.n, report.exact) == (8, 6)
    assert report.harness.startswith(version)
    assert report.harness.endswith(said_of)
