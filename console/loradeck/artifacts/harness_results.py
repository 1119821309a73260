"""Reading the result files of lm-eval and inspect-ai."""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loradeck.artifacts.errors import BadArtifact
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.ids import Digest
from loradeck.schemas.suite import HarnessFigure, HarnessReport

LARGEST = 64 << 20
"""Largest file that is read, in bytes: inspect-ai's log holds every sample."""


def harness_report(path: Path, release: Digest) -> HarnessReport:
    """Reads what a harness measured, from its own result file in JSON.

    Raises: BadArtifact: `bad_report`: it is no such file, or holds no figure.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise _bad("the file is too large", f"{path}: at most {LARGEST:,} bytes")
        data = path.read_bytes()
        found = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise _bad("the file cannot be read as JSON", f"{path}: {error}") from None
    results = found.get("results") if isinstance(found, dict) else None
    try:
        if isinstance(results, dict) and isinstance(found.get("eval"), dict):
            fields: dict[str, Any] = _inspect(found)
        elif isinstance(results, dict) and isinstance(found.get("versions", {}), dict):
            fields = _lm_eval(found)
        else:
            raise _bad("the file is no result of lm-eval or inspect-ai", str(path))
        return HarnessReport(release=release, file=hashlib.sha256(data).hexdigest(), **fields)
    except ValidationError as error:
        raise _bad("the file's figures cannot be read", f"{path}: {first_wrong(error)}") from None
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        raise _bad("the file is not of the form that is known", f"{path}: {error!r}") from None


def _lm_eval(found: dict[str, Any]) -> dict[str, Any]:
    versions, samples = found.get("versions", {}), found.get("n-samples", {})
    figures = []
    for task, measured in found["results"].items():
        n = samples.get(task, {}).get("effective", measured.get("sample_len"))
        for key, value in measured.items():
            name, _, kind = key.partition(",")
            if not kind or name.endswith("_stderr") or not _is_number(value):
                continue
            stderr = measured.get(f"{name}_stderr,{kind}")
            figures.append(
                HarnessFigure(
                    task=task,
                    version=str(versions.get(task, "")),
                    name=name if kind == "none" else f"{name} ({kind})",
                    value=value,
                    stderr=stderr if _is_number(stderr) else None,
                    n=n if isinstance(n, int) else None,
                )
            )
    model = found.get("model_name") or found.get("config", {}).get("model") or ""
    version = found.get("lm_eval_version") or ""
    return {"harness": "lm-eval", "version": str(version)[:50], "model": str(model)[:300], "figures": figures}


def _inspect(found: dict[str, Any]) -> dict[str, Any]:
    asked = found["eval"]
    if found.get("status") != "success":
        raise _bad("the evaluation did not come to its end", f"its status is {found.get('status')!r}")
    return {
        "harness": "inspect-ai",
        "version": str(asked.get("packages", {}).get("inspect_ai", "")),
        "model": str(asked.get("model", ""))[:300],
        "figures": list(_scores(found["results"], asked)),
    }


def _scores(results: dict[str, Any], asked: dict[str, Any]) -> Iterator[HarnessFigure]:
    for score in results.get("scores", ()):
        metrics = score.get("metrics", {})
        stderr = metrics.get("stderr", {}).get("value")
        for name, metric in metrics.items():
            if name == "stderr" or not _is_number(metric.get("value")):
                continue
            yield HarnessFigure(
                task=asked["task"],
                version=str(asked.get("task_version", "")),
                name=f"{score['name']} {name}",
                value=metric["value"],
                stderr=stderr if _is_number(stderr) else None,
                n=results.get("completed_samples"),
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bad(title: str, where: str) -> BadArtifact:
    fix = "name lm-eval's results_….json (--output_path), or inspect-ai's log in JSON (--log-format json)"
    return BadArtifact("bad_report", title, where, fix)
