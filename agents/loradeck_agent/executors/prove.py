"""Prove executor: shows on this node that training is right, by running the train executor as a job would.

    python -m loradeck_agent.executors prove --spec spec.json

The same small recipe runs twice in bf16, once more through a stop and a resume, and once in fp32, each in a process of
its own. What is compared: the bytes of the adapters, the losses in both precisions, and the peak memory with the plan.
"""

import hashlib
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loradeck.artifacts.adapters import WEIGHTS
from loradeck.schemas.executor import EXIT_OUT_OF_MEMORY, ExecutorEvent, ExecutorEventType, ExecutorSpec
from loradeck.schemas.jobs import ProveSpec, TrainSpec
from loradeck.schemas.manifest import DecisionRecord
from loradeck.schemas.training import CPU, Precision, TrainingProof
from loradeck_agent.embedded.adapter_bank import linear_shapes
from loradeck_agent.executors.base import outlined
from loradeck_agent.executors.protocol import ExecutorFailure, Run
from loradeck_agent.host.training_versions import training_versions

ROWS = [{"prompt": f"What is {a} plus {b}?", "answer": f"{a} plus {b} is {a + b}."} for a in range(6) for b in range(5)]
PROOF = "proof.json"
POLL_S = 0.1


@dataclass(frozen=True)
class _Trial:
    """A run of the train executor that has ended."""

    folder: Path
    status: int
    events: list[ExecutorEvent]

    @property
    def losses(self) -> list[float]:
        return [event.metrics["loss"] for event in self.events if event.type is ExecutorEventType.PROGRESS]

    @property
    def begins(self) -> tuple[float, float]:
        """The loss and the gradient's norm of the first step; later ones show how roundings add up, and not the GPU."""
        first = next(event.metrics for event in self.events if event.type is ExecutorEventType.PROGRESS)
        return first["loss"], first["grad_norm"]

    @property
    def adapter(self) -> bytes:
        return (self.folder / "out" / WEIGHTS).read_bytes()


def prove(current: Run) -> Mapping[str, Any]:
    """Runs the trials of one prove job; `proof.json` is in the spec's `out` folder when it returns.

    Raises:
        ExecutorFailure: a trial failed, with its code and message.
        Preempted: stopped on request.
    """
    began = time.monotonic()
    spec, trials = current.spec.spec, Path(current.spec.events).parent / "trials"
    assert isinstance(spec, ProveSpec)
    trials.mkdir()
    rows = trials / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe = _recipe(current, spec, hashlib.sha256(rows.read_bytes()).hexdigest())

    def trial(name: str, recipe: TrainSpec = recipe, **how: Any) -> _Trial:
        current.progress(len(list(trials.iterdir())) - 1, 5, f"the trial {name!r} begins")
        return _run(current, trials / name, recipe, rows, **how)

    first, second = trial("first"), trial("second")
    checkpoints = trials / "checkpoints"
    trial("stopped", checkpoints=checkpoints, stop_at=spec.steps // 2)
    resumed = trial("resumed", checkpoints=checkpoints)
    whole = trial("fp32", recipe.model_copy(update={"precision": Precision.FP32}), may_not_fit=True)
    pairs = zip(first.begins, whole.begins, strict=True) if whole.status == 0 else None
    found, speeds = first.events[-1].data, [e.metrics.get("tokens_per_second", 0.0) for e in first.events]
    proof = TrainingProof(
        base=spec.base,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else CPU,
        versions=training_versions(),
        steps=spec.steps,
        planned_bytes=int(found["planned_memory_bytes"]),
        peak_bytes=int(found["peak_memory_bytes"]),
        loss=first.losses[-1],
        apart=max(abs(half - full) / full for half, full in pairs) if pairs else None,
        straight=first.adapter == second.adapter,
        resumed=first.adapter == resumed.adapter,
        tokens_per_second=round(statistics.median(speed for speed in speeds if speed), 1),
        seconds=round(time.monotonic() - began, 1),
    )
    current.publish({PROOF: proof})
    return {"straight": proof.straight, "resumed": proof.resumed}


def _recipe(current: Run, spec: ProveSpec, rows: str) -> TrainSpec:
    """A recipe for any base: an adapter on what it has of the usual layers, with dropout, so that randomness counts."""
    shapes = linear_shapes(outlined(current.spec).model)
    names = {name.rpartition(".")[2] for name in shapes}
    usual = tuple(name for name in TrainSpec.model_fields["target_modules"].default if name in names)
    return TrainSpec(
        tenant=spec.tenant,
        name="trial",
        base=spec.base,
        datasets=(rows,),
        decision=DecisionRecord(why_weights="a trial of this node"),
        steps=spec.steps,
        accumulation=2,
        learning_rate=1e-4,
        dropout=0.05,
        rank=min(8, *(min(shape) for shape in shapes.values())),
        target_modules=usual or tuple(sorted(names)),
        precision=Precision.BF16,
        checkpoint_every=spec.steps // 2,
    )


def _run(
    current: Run,
    folder: Path,
    recipe: TrainSpec,
    rows: Path,
    *,
    checkpoints: Path | None = None,
    stop_at: int | None = None,
    may_not_fit: bool = False,
) -> _Trial:
    """Runs the train executor in a process of its own, and stops it once it has taken the step `stop_at`.

    Raises: ExecutorFailure: it ended otherwise than it was to.
    """
    folder.mkdir()
    fields = {"out": folder / "out", "events": folder / "events.jsonl", "error": folder / "error.txt"}
    spec = ExecutorSpec(
        run=current.spec.run,
        attempt=current.spec.attempt,
        spec=recipe,
        base=current.spec.base,
        base_digest=current.spec.base_digest,
        inputs={recipe.datasets[0]: str(rows)},
        checkpoints=str(checkpoints) if checkpoints else None,
        threads=current.spec.threads,
        **{name: str(path) for name, path in fields.items()},
    )
    (folder / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "loradeck_agent.executors", "train", "--spec", str(folder / "spec.json")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as child:
        try:
            while child.poll() is None:
                current.check()
                if stop_at is not None and len(_Trial(folder, 0, _events(fields["events"])).losses) >= stop_at:
                    child.send_signal(signal.SIGTERM)
                    break
                time.sleep(POLL_S)
            status = child.wait()
        except BaseException:
            child.kill()
            raise
    ended = _Trial(folder, status, _events(fields["events"]))
    # A quick one may be over before it is stopped: its checkpoint of half the steps is resumed from all the same.
    wanted = {ExecutorEventType.FINISHED, *([ExecutorEventType.PREEMPTED] if stop_at is not None else [])}
    last = ended.events[-1] if ended.events else None
    if (last is None or last.type not in wanted) and not (may_not_fit and status == EXIT_OUT_OF_MEMORY):
        why = f"the trial {folder.name!r} ended with status {status}: {last.message if last else 'it said nothing'}"
        raise ExecutorFailure(last.code if last is not None and last.code else "executor_failed", why)
    return ended


def _events(path: Path) -> list[ExecutorEvent]:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [ExecutorEvent.model_validate_json(line) for line in lines if line.endswith(b"\n")]
