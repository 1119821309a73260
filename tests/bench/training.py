"""The train executor on SmolLM2-135M, rank 8 on all linear layers: its overhead, its checkpoints, and kill -9.

Its loop runs on the example tickets in turns with the bare library loop in one process, a step of one after a step of
the others on the same rows, so that whatever else the machine does hits all of them. Then the same recipe runs with
checkpoints in processes that are killed with kill -9, one of them inside the writing of a checkpoint, and resumed.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.executors import ROOT, child, copy_synced, cores, environment, version
from tests.bench.rows import Row

from base_model import ensure_base
from loradeck.artifacts import base_manifest
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType, ExecutorSpec
from loradeck_agent.store.checkpoints import LAST_GOOD
from recipes.measure import HERE, digest_of_rows, recipe

STEPS = 20
KILLS = 3
EVERY = 4
"""Steps between checkpoints of the run that is killed."""
PATIENCE_S = 300.0
FLOOR = 0.97
WHAT = "train executor, SmolLM2-135M, rank 8"


def measure(*, steps: int = STEPS, kills: int = KILLS) -> list[Row]:
    """About two minutes on two free cores."""
    with tempfile.TemporaryDirectory(prefix="ld") as name:
        maker = _Specs(Path(name), steps)
        whole = maker.write("whole", checkpoints=False)
        loops = child("turns", Path(name), {"spec": str(whole), "threads": cores()})
        killed = _killed(maker, kills)
        return [*_overhead_rows(loops), *_checkpoint_rows(killed, loops), *_kill_rows(killed, _adapter(whole))]


@dataclass
class _Specs:
    """Specs of the same recipe, each with a folder of its own; those with checkpoints share one folder of them."""

    root: Path
    steps: int

    def __post_init__(self) -> None:
        self.base = ensure_base()
        self.digest = base_manifest(self.base, "-", "-").digest

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def kept(self) -> int:
        """The step of the last good checkpoint."""
        named = self.checkpoints / LAST_GOOD
        return int(named.read_text().removeprefix("step-")) if named.exists() else 0

    def write(self, name: str, *, checkpoints: bool) -> Path:
        folder = self.root / name
        folder.mkdir()
        spec = ExecutorSpec(
            run="bench",
            attempt=1,
            spec=recipe("supervised", self.digest).model_copy(update={"steps": self.steps, "checkpoint_every": EVERY}),
            base=str(self.base),
            base_digest=self.digest,
            inputs={digest_of_rows("tickets"): str(HERE / "tickets.jsonl")},
            out=str(folder / "out"),
            events=str(folder / "events.jsonl"),
            error=str(folder / "error.txt"),
            checkpoints=str(self.checkpoints) if checkpoints else None,
            threads=cores(),
        )
        path = folder / "spec.json"
        path.write_text(spec.model_dump_json())
        return path


@dataclass
class _Killed:
    """What became of a run that was killed several times."""

    adapter: Path
    lost: list[int] = field(default_factory=list)
    """Steps that were done and had to be done again, by kill."""
    stalls: list[float] = field(default_factory=list)
    """Seconds that the loop stood still for a checkpoint."""
    copies: list[float] = field(default_factory=list)
    """Seconds of cp + fsync of a checkpoint."""
    size: int = 0
    """Bytes of a checkpoint."""


def _killed(maker: _Specs, kills: int) -> _Killed:
    """Runs the recipe to its end through `kills` kills."""
    chance = random.Random(1)
    found, done = _Killed(Path()), 0
    for attempt in itertools.count():
        spec = maker.write(f"attempt{attempt}", checkpoints=True)
        running = _start(spec)
        if attempt < kills:
            inside = attempt % 2 == 1
            step = min(maker.kept() + (EVERY if inside else chance.randrange(1, 2 * EVERY)), maker.steps - 1)
            _wait_for(running, spec, step, maker.checkpoints if inside else None)
            running.kill()
        status = running.wait(PATIENCE_S)
        steps = [event.step or 0 for event in _events(spec, ExecutorEventType.PROGRESS)]
        if attempt:
            found.lost.append(done - (steps[0] - 1))
        found.stalls += [e.metrics["checkpoint_seconds"] for e in _events(spec, ExecutorEventType.CHECKPOINT)]
        done = steps[-1]
        if status == 0:
            found.adapter = _adapter(spec)
            break
        assert status == -signal.SIGKILL, (spec.parent / "error.txt").read_text()
    last = maker.checkpoints / (maker.checkpoints / LAST_GOOD).read_text()
    found.size = sum(path.stat().st_size for path in last.iterdir())
    for number in range(len(found.stalls)):
        began = time.monotonic()
        copy_synced(last, maker.root / f"copy{number}")
        found.copies.append(time.monotonic() - began)
    return found


def _start(spec: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "loradeck_agent.executors", "train", "--spec", str(spec)]
    with (spec.parent / "log.txt").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)


def _wait_for(running: subprocess.Popen[bytes], spec: Path, step: int, writing: Path | None) -> None:
    """Until a run has said this step, and with `writing` until it writes a checkpoint into that folder."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert running.poll() is None, (spec.parent / "log.txt").read_text()[-2000:]
        if (writing is None or any(writing.glob(".*.staging"))) and f'"step":{step},' in _text(spec):
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} within {PATIENCE_S:.0f} s")


def _text(spec: Path) -> str:
    path = spec.parent / "events.jsonl"
    return path.read_text() if path.exists() else ""


def _events(spec: Path, type_: ExecutorEventType) -> list[ExecutorEvent]:
    """What a run said; the last line of one that was killed may be half a line."""
    lines = [line for line in _text(spec).splitlines(keepends=True) if line.endswith("\n")]
    return [event for event in map(ExecutorEvent.model_validate_json, lines) if event.type is type_]


def _adapter(spec: Path) -> Path:
    return spec.parent / "out" / "adapter_model.safetensors"


# ---- rows --------------------------------------------------------------------------------------------------------


def _overhead_rows(loops: dict[str, Any]) -> list[Row]:
    seconds, tokens = loops["seconds"], loops["tokens"]
    n = len(tokens)

    def rate(loop: str) -> float:
        return sum(tokens) / sum(seconds[loop])

    def against(loop: str) -> float:
        return statistics.median(theirs / ours for ours, theirs in zip(seconds["executor"], seconds[loop], strict=True))

    libraries = f"transformers {version('transformers')}, peft {version('peft')}, AdamW"
    same = "same rows, settings and threads; median over the steps"
    return [
        Row(WHAT, rate("executor"), "tokens/s", n, how=f"{cores()} threads; guards and events included"),
        Row("peer: bare library loop", rate("by_labels"), "tokens/s", n, how=f"{libraries}; model(labels=...)"),
        Row(f"{WHAT}: against that loop", against("by_labels"), "x", n, FLOOR, higher=True, how=same, reference="peer"),
        Row(
            "floor: that loop, its head on answers only",
            rate("on_answers"),
            "tokens/s",
            n,
            how="the executor's arithmetic, without the executor",
        ),
        Row(
            f"{WHAT}: against that floor",
            against("on_answers"),
            "x",
            n,
            FLOOR,
            higher=True,
            how=same,
            reference="floor",
        ),
        Row("tensors that differ from that floor's at the end", loops["differing"], "tensors", n, 0, how="bit for bit"),
    ]


def _checkpoint_rows(killed: _Killed, loops: dict[str, Any]) -> list[Row]:
    stall, floor = statistics.median(killed.stalls), statistics.median(killed.copies)
    step, n = statistics.median(loops["seconds"]["executor"]), len(killed.stalls)
    how = f"{killed.size / 1e6:.0f} MB: weights and optimizer, hashed, written, synced, named; median"
    return [
        Row("checkpoint: the loop stands still for", stall, "s", n, how=how),
        Row(
            "checkpoint: that against one step", stall / step, "x", n, how=f"a step of {step:.2f} s", reference="floor"
        ),
        Row("floor: cp + fsync of the same bytes", floor, "s", n, how="median"),
        Row("checkpoint: times that of cp + fsync", stall / floor, "x", n, reference="floor"),
    ]


def _kill_rows(killed: _Killed, undisturbed: Path) -> list[Row]:
    ours, wanted = killed.adapter.read_bytes(), undisturbed.read_bytes()
    differing = sum(a != b for a, b in itertools.zip_longest(ours, wanted))
    n = len(killed.lost)
    told = "equal" if not differing else "not equal"
    return [
        Row(
            f"adapter of a run killed {n} times: bytes unlike the undisturbed one's",
            differing,
            "unlike",
            n,
            0,
            unwaivable=True,
            how=f"{told}, {len(wanted):,} bytes, SHA-256 {hashlib.sha256(ours).hexdigest()[:12]}",
        ),
        Row(
            "steps that one kill -9 lost: most",
            max(killed.lost),
            "steps",
            n,
            EVERY,
            unwaivable=True,
            how=f"done, and done again; a checkpoint every {EVERY} steps, and one kill inside its writing",
        ),
    ]
