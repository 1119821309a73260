"""The real lm-eval, run by an evaluate job on a task and data of the operator's, without a network.

`LORADECK_LM_EVAL` names the Python of an environment with `lm-eval[api]`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.integration.executors.running import SUITE, bare, write_rows

from loradeck.schemas.attestation import EngineBuild, EvaluationReport
from loradeck.schemas.jobs import EXIT_OK, EvaluateSpec

PYTHON = os.environ.get("LORADECK_LM_EVAL", "")
BUILD = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")
TASK = """
task: tickets
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 16}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""

pytestmark = pytest.mark.skipif(not PYTHON, reason="LORADECK_LM_EVAL names no Python with lm-eval")


def test_the_samples_of_lm_eval_become_an_evaluation_report(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows = write_rows(tasks / "rows.jsonl", [{"question": f"question {n}", "answer": "yes"} for n in range(8)])
    (tasks / "tickets.yaml").write_text(TASK.format(rows=rows))

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        assert question["body"]["temperature"] == 0
        number = int(question["body"]["messages"][-1]["content"].split()[-1])
        said = {"message": {"role": "assistant", "content": "yes" if number < 6 else "no"}, "index": 0}
        return {"body": {"model": "m", "choices": [said]}}

    bench = bare(tmp_path)
    suite = tmp_path / "task.jsonl"
    suite.write_text(json.dumps({"harness": "lm-eval", "task": "tickets", "metric": "exact_match", "items": 8}) + "\n")
    spec = EvaluateSpec(tenant="acme", release=bench.release(None), suite=SUITE, batch=4)
    with bench.door(answer, BUILD, scores=False) as door:
        places = {"lm-eval": (PYTHON, str(tasks))}
        ended = bench.run(spec, {SUITE: str(suite)}, engine=door, harnesses=places)
    assert ended.status == EXIT_OK, ended.last
    report = EvaluationReport.model_validate_json((ended.out / "report.json").read_bytes())
    assert (report.n, report.exact) == (8, 6)
    assert report.harness.startswith("lm-eval 0.4.")
    assert "tickets 1.0, exact_match" in report.harness
