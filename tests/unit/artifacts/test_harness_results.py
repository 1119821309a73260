"""Result files of lm-eval and inspect-ai, in the form that their versions of today write."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.harness_results import harness_report

RELEASE = "a" * 64
LM_EVAL: dict[str, Any] = {
    "results": {
        "arc_easy": {
            "alias": "arc_easy",
            "acc,none": 0.52,
            "acc_stderr,none": 0.05,
            "acc_norm,none": 0.48,
            "acc_norm_stderr,none": "N/A",
        },
        "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.1, "exact_match_stderr,strict-match": 0.01},
    },
    "versions": {"arc_easy": 1.0, "gsm8k": 3},
    "n-samples": {"arc_easy": {"original": 2376, "effective": 100}, "gsm8k": {"original": 1319, "effective": 50}},
    "config": {"model": "local-chat-completions"},
    "model_name": "acme",
    "lm_eval_version": "0.4.13",
}
INSPECT: dict[str, Any] = {
    "version": 2,
    "status": "success",
    "eval": {
        "task": "tickets",
        "task_version": 0,
        "model": "openai-api/local/acme",
        "packages": {"inspect_ai": "0.3.285"},
    },
    "results": {
        "total_samples": 20,
        "completed_samples": 19,
        "scores": [
            {
                "name": "match",
                "metrics": {
                    "accuracy": {"name": "accuracy", "value": 0.75},
                    "stderr": {"name": "stderr", "value": 0.1},
                },
            }
        ],
    },
}


def written(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    return path


def test_lm_evals_figures_have_their_task_error_and_items(tmp_path: Path) -> None:
    path = written(tmp_path, LM_EVAL)
    report = harness_report(path, RELEASE)
    assert (report.harness, report.version, report.model) == ("lm-eval", "0.4.13", "acme")
    assert report.file == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [(f.task, f.version, f.name, f.value, f.stderr, f.n) for f in report.figures] == [
        ("arc_easy", "1.0", "acc", 0.52, 0.05, 100),
        ("arc_easy", "1.0", "acc_norm", 0.48, None, 100),
        ("gsm8k", "3", "exact_match (strict-match)", 0.1, 0.01, 50),
    ]


def test_inspect_ais_figures_have_theirs(tmp_path: Path) -> None:
    report = harness_report(written(tmp_path, INSPECT), RELEASE)
    assert (report.harness, report.version, report.model) == ("inspect-ai", "0.3.285", "openai-api/local/acme")
    assert [(f.task, f.name, f.value, f.stderr, f.n) for f in report.figures] == [
        ("tickets", "match accuracy", 0.75, 0.1, 19)
    ]


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ([], "no result of lm-eval or inspect-ai"),
        ({"results": {}}, "figures"),
        ({"results": {"a": {"acc,none": "N/A"}}}, "figures"),
        ({"results": {"a": 3}}, "form that is known"),
        ({"results": {"a": {"acc,none": 10**400}}}, "form that is known"),
        (INSPECT | {"status": "error"}, "did not come to its end"),
        ({"results": {"t" * 201: {"acc,none": 1}}}, "cannot be read"),
    ],
)
def test_what_is_no_such_file_is_refused_with_what_to_name(tmp_path: Path, document: object, what: str) -> None:
    with pytest.raises(BadArtifact, match=what) as refused:
        harness_report(written(tmp_path, document), RELEASE)
    assert refused.value.code == "bad_report"
    assert "lm-eval" in refused.value.fix


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{")
    with pytest.raises(BadArtifact, match="as JSON"):
        harness_report(tmp_path / "x", RELEASE)
