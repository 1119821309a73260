"""One measurement of a benchmark of executors in a process of its own, so that its memory is its own.

    python -m tests.bench.executor_child merge|peft|copy|turns|train|trl FOLDER

FOLDER holds `task.json`; one JSON object is printed.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import peft
import torch
import transformers
from tests.bench.bare_loop import turns
from tests.bench.executors import copy_synced

from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType, ExecutorSpec
from loradeck_agent.executors.merging.merge_weights import merge_weights
from loradeck_agent.executors.protocol import Run
from loradeck_agent.executors.train import train

Task = dict[str, Any]


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of some work, and the most memory it took above what the imports hold, in MB of 10^6 bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
    before = _status("VmRSS")
    began = time.monotonic()
    work()
    took = time.monotonic() - began
    return {"seconds": took, "peak_mb": max(0.0, _status("VmHWM") - before)}


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def merge(task: Task) -> dict[str, float]:
    """Ours: hashed, written and on the disk."""
    out = Path(task["out"])
    out.mkdir()
    return measured(lambda: merge_weights(Path(task["base"]), Path(task["adapter"]), out))


def by_peft(task: Task) -> dict[str, float]:
    """What the library offers: the model in fp32, merged in memory, cast and saved."""

    def work() -> None:
        model = transformers.AutoModelForCausalLM.from_pretrained(task["base"], dtype=torch.float32)
        merged = peft.PeftModel.from_pretrained(model, task["adapter"]).merge_and_unload()
        merged.to(torch.bfloat16).save_pretrained(task["out"])

    return measured(work)


def copy(task: Task) -> dict[str, float]:
    """The floor: the same bytes to the same disk."""
    return measured(lambda: copy_synced(Path(task["base"]), Path(task["out"])))


def take_turns(task: Task) -> dict[str, Any]:
    """The train executor's loop in turns with the bare one."""
    return turns(Path(task["spec"]))


def train_alone(task: Task) -> dict[str, Any]:
    """The train executor by itself: its speed without the first step, and its memory."""
    spec = ExecutorSpec.model_validate_json(Path(task["spec"]).read_bytes())
    found = measured(lambda: train(Run(spec)))
    lines = map(ExecutorEvent.model_validate_json, Path(spec.events).read_bytes().splitlines())
    steps = [e.metrics for e in lines if e.type is ExecutorEventType.PROGRESS and e.step]
    return {**found, "tokens_per_s": statistics.harmonic_mean(step["tokens_per_second"] for step in steps[1:])}


def trl(task: Task) -> dict[str, Any]:
    """trl's own trainer on the same rows."""
    from tests.bench.trl_loop import by_trl

    return by_trl(task, measured)


WORK: dict[str, Callable[[Task], dict[str, Any]]] = {
    "merge": merge,
    "peft": by_peft,
    "copy": copy,
    "turns": take_turns,
    "train": train_alone,
    "trl": trl,
}


def main() -> None:
    kind, folder = sys.argv[1:]
    task = json.loads((Path(folder) / "task.json").read_text())
    torch.set_num_threads(task["threads"])
    transformers.utils.logging.disable_progress_bar()
    sys.stdout.write(json.dumps(WORK[kind](task)) + "\n")


if __name__ == "__main__":
    main()
