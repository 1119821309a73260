"""The train executor in two processes under torchrun, as an agent starts it: whole and divided bases, preemptions."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.integration.executors.running import DATASET, Bench, Ended, Row, read_events, write_rows

from loradeck.schemas.executor import EXIT_OK, EXIT_PREEMPTED, ExecutorEventType
from loradeck_agent.executors.protocol import Run
from loradeck_agent.jobs.local_processes import torchrun_argv
from loradeck_agent.store.checkpoints import LAST_GOOD

pytestmark = pytest.mark.drawn(seconds=45)

TALK = "e" * 64
ROWS: list[Row] = [{"prompt": f"what is {n}?", "answer": f"it is {n * n}"} for n in range(7)]
GENERAL: list[Row] = [{"prompt": f"say {n}", "answer": f"{n}, of course"} for n in range(5)]
WEIGHTS = "out/adapter_model.safetensors"
STEPS = 24
DIVIDED = {
    "steps": STEPS,
    "batch": 4,
    "learning_rate": 1e-2,
    "processes": 2,
    "precision": "bf16",
    "sharded": True,
    "checkpoint_every": 100,
}


@pytest.fixture
def bench(tiny_base: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_base, tmp_path)


def losses(folder: Path) -> dict[int, float]:
    events = [e for e in read_events(folder) if e.type is ExecutorEventType.PROGRESS]
    return {e.step or 0: e.metrics["loss"] for e in events}


def in_two(bench: Bench, inputs: dict[str, str], *, stop_after: int | None = None, **changes: Any) -> Ended:
    """Runs a recipe of two processes under torchrun; told to stop once it has said that step, as an agent tells it."""
    checkpoints = changes.pop("checkpoints", None)
    if checkpoints is not None:
        Path(checkpoints).mkdir(exist_ok=True)  # as the agent does
    kept_out = {"closed": (str(bench.root),), "confined": True}
    folder = bench.write(bench.recipe(**changes), inputs, checkpoints=checkpoints, **kept_out)
    log = folder / "log.txt"
    with log.open("wb") as file:
        command, env = torchrun_argv("train", folder / "spec.json", 2), {**os.environ, "OMP_NUM_THREADS": "1"}
        running = subprocess.Popen(command, stdout=file, stderr=file, env=env)
    deadline = time.monotonic() + 240
    while running.poll() is None and time.monotonic() < deadline:
        if stop_after is not None and max(losses(folder), default=0) >= stop_after:
            running.send_signal(signal.SIGTERM)
            break
        time.sleep(0.02)
    running.wait(240)
    wanted = ExecutorEventType.FINISHED if stop_after is None else ExecutorEventType.PREEMPTED
    assert read_events(folder)[-1].type is wanted, log.read_text()
    return Ended(running.returncode, folder)


def test_two_processes_take_the_steps_that_one_would(bench: Bench) -> None:
    inputs = {
        DATASET: str(write_rows(bench.root / "rows.jsonl", ROWS)),
        TALK: str(write_rows(bench.root / "talk.jsonl", GENERAL)),
    }
    settings = {"steps": 4, "batch": 4, "learning_rate": 1e-2, "kl": 1.0, "datasets": (DATASET, TALK)}
    settings["mixing"] = {"dataset": TALK, "share": 0.5}
    alone = bench.run(bench.recipe(**settings), inputs)
    assert alone.status == EXIT_OK
    both = in_two(bench, inputs, processes=2, **settings)
    assert [e.seq for e in both.events] == list(range(len(both.events)))
    assert losses(both.folder) == pytest.approx(losses(alone.folder), rel=1e-4)
    kl, ours = ([e.metrics["kl"] for e in run.of_type(ExecutorEventType.PROGRESS)] for run in (alone, both))
    assert kl[-1] > 0.001, "the model has moved"
    assert ours == pytest.approx(kl, rel=1e-2, abs=1e-6)


def test_a_divided_base_is_trained_as_a_whole_one_and_resumed_in_two_processes_or_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {DATASET: str(write_rows(bench.root / "rows.jsonl", ROWS))}
    straight = in_two(bench, inputs, **DIVIDED)
    whole = bench.run(bench.recipe(**DIVIDED), inputs, processes=1)
    assert whole.status == EXIT_OK, whole.last
    assert losses(straight.folder) == pytest.approx(losses(whole.folder), rel=1e-3)

    kept = bench.root / "kept"
    first = in_two(bench, inputs, stop_after=2, checkpoints=str(kept), **DIVIDED)
    assert int((kept / LAST_GOOD).read_text().removeprefix("step-")) == max(losses(first.folder)) < STEPS
    copy = shutil.copytree(kept, bench.root / "copy")
    again = in_two(bench, inputs, checkpoints=str(copy), **DIVIDED)
    assert (again.folder / WEIGHTS).read_bytes() == (straight.folder / WEIGHTS).read_bytes()

    # In one process for a while, and back in two: the same rows in the same steps, and the same sums but for rounding.
    progress, limit = Run.progress, max(losses(first.folder)) + 3

    def stopped(run: Run, step: int, *args: Any, **figures: float) -> None:
        progress(run, step, *args, **figures)
        run.stopping = step >= limit

    monkeypatch.setattr(Run, "progress", stopped)
    second = bench.run(bench.recipe(**DIVIDED), inputs, processes=1, checkpoints=str(kept))
    assert second.status == EXIT_PREEMPTED, second.last
    assert "processes 2, now 1" in " ".join(event.message for event in second.events)
    third = in_two(bench, inputs, checkpoints=str(kept), **DIVIDED)
    taken = losses(first.folder) | losses(second.folder) | losses(third.folder)
    assert min(losses(third.folder)) == limit + 1
    assert taken == pytest.approx(losses(straight.folder), rel=1e-3)
    one, two = load_file(third.folder / WEIGHTS), load_file(straight.folder / WEIGHTS)
    assert all(one[key].sub(two[key]).abs().max() < 2e-3 for key in two)
