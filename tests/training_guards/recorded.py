"""Losses of a short run of SmolLM2, a row a step: noise of the simulation as it was seen.

    PYTHONPATH=examples python -m tests.training_guards.recorded

Tickets with a quarter of general questions among them (examples/recipes). It takes two minutes of one core, and writes
`recorded` in docs/training-guards.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from base_model import ensure_base
from loradeck.artifacts import base_manifest
from loradeck.schemas.executor import ExecutorSpec
from loradeck.schemas.jobs import TrainSpec
from recipes.measure import HERE, digest_of_rows

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "training-guards.json"
SEED, SETS = 1, ("tickets", "talk")


def losses(base: Path, folder: Path) -> list[float]:
    """Trains by a recipe that no guard ends; returns the loss of each step, in nats a token."""
    digest = base_manifest(base, "-", "-").digest
    recipe = {
        "tenant": "bolt",
        "name": "noise",
        "base": digest,
        "datasets": [digest_of_rows(name) for name in SETS],
        "mixing": {"dataset": digest_of_rows("talk"), "share": 0.25},
        "seed": SEED,
        "steps": 160,
        "batch": 1,
        "max_tokens": 96,
        "learning_rate": 1e-3,
        "guards": {"spike": 1e9},
        "decision": {"why_weights": "to record the noise of a run"},
    }
    spec = ExecutorSpec(
        run="noise",
        attempt=1,
        spec=TrainSpec.model_validate(recipe),
        base=str(base),
        base_digest=digest,
        inputs={digest_of_rows(name): str(HERE / f"{name}.jsonl") for name in SETS},
        out=str(folder / "out"),
        events=str(folder / "events.jsonl"),
        error=str(folder / "error.txt"),
        threads=1,
    )
    (folder / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "loradeck_agent.executors", "train", "--spec", str(folder / "spec.json")]
    subprocess.run(command, check=True)
    metrics = [json.loads(line).get("metrics") or {} for line in (folder / "events.jsonl").read_text().splitlines()]
    return [round(one["loss"], 4) for one in metrics if "loss" in one]


def main() -> None:
    """Records the run and writes it down, with the commit."""
    base = ensure_base()
    stamp = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kept = json.loads(KEPT.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        found = losses(base, Path(scratch))
    kept["recorded"] = {"commit": stamp.stdout.strip(), "seed": SEED, "loss": found}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
