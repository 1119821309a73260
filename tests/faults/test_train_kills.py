"""kill -9 of the train executor, at random moments and inside the writing of checkpoints; nothing of it shows.

`LORADECK_FAULT_ROUNDS` sets the kills: 5 in `make test`, 10 in each round of `make faults`. The seed is printed, and
`LORADECK_FAULT_SEED` sets it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.executors.running import DATASET, Bench, read_events, write_rows

from loradeck.schemas.executor import EXIT_PREEMPTED, ExecutorEventType
from loradeck_agent.executors.training.checkpoints import LAST_GOOD

pytestmark = pytest.mark.drawn(seconds=20)

ROUNDS = int(os.environ.get("LORADECK_FAULT_ROUNDS", "5"))
SEED = int(os.environ.get("LORADECK_FAULT_SEED", random.SystemRandom().randrange(2**32)))
STEPS = 12
EVERY = 2
ROWS = [{"prompt": f"what is {n}?", "answer": f"it is {n * n}"} for n in range(9)]
WRITES = 11
"""Calls of one checkpoint that make something durable: four files, folders, names, LAST_GOOD."""


class Forks:
    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("executor_forks.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, folder: Path, dies: int | None = None, world: int = 1) -> list[int]:
        """Process ids of a run that was begun."""
        assert self._process.stdin is not None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        order = {"spec": str(folder / "spec.json"), "dies": dies, "world": world, "port": port}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return [int(pid) for pid in self._read()["pids"]]

    def end(self) -> list[int]:
        """Exit statuses; minus the signal that killed it."""
        return [os.waitstatus_to_exitcode(int(status)) for status in self._read()["statuses"]]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the forking process ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()


@pytest.mark.timeout(120 + 10 * ROUNDS)
def test_whatever_kills_the_executor_the_adapter_is_the_undisturbed_ones_byte_for_byte(
    tiny_base: Path, tmp_path: Path, forks: Forks
) -> None:
    print(f"LORADECK_FAULT_SEED={SEED}")
    chance = random.Random(SEED)
    bench = Bench(tiny_base, tmp_path)
    rows = str(write_rows(tmp_path / "rows.jsonl", ROWS))
    recipe = bench.recipe(steps=STEPS, checkpoint_every=EVERY, dropout=0.1, learning_rate=1e-2)

    def made(checkpoints: Path) -> Path:
        return bench.write(recipe, {DATASET: rows}, checkpoints=str(checkpoints))

    whole = made(tmp_path / "undisturbed")
    forks.start(whole, None)
    assert forks.end() == [0]
    wanted = (whole / "out" / "adapter_model.safetensors").read_bytes()

    kills = inside = finished = run = 0
    while kills < ROUNDS:
        run += 1
        checkpoints = tmp_path / f"checkpoints{run}"
        while True:
            good = int((checkpoints / LAST_GOOD).read_text()[5:]) if (checkpoints / LAST_GOOD).exists() else 0
            folder = made(checkpoints)
            # The first kill of a run is inside a write, the second wherever it falls.
            dies = chance.randrange(1, 2 * WRITES) if kills % 2 == 0 and kills < ROUNDS else None
            (pid,) = forks.start(folder, dies)
            if dies is None and kills < ROUNDS:
                wait_for_step(folder, chance.randrange(good + 1, STEPS + 1))
                time.sleep(chance.random() * 0.02)
                kill(pid)
            (status,) = forks.end()
            began = [e.step for e in read_events(folder) if e.type is ExecutorEventType.PROGRESS]
            assert not began or began[0] == good + 1, "steps before the last checkpoint were done again, or left out"
            if status == 0:
                break
            assert status == -signal.SIGKILL, (folder / "error.txt").read_text()
            kills += 1
            inside += bool(list(checkpoints.glob(".*"))) or dies is not None
            if (folder / "out").exists():  # it was killed between publishing and its end
                assert (folder / "out" / "adapter_model.safetensors").read_bytes() == wanted
        finished += 1
        assert (folder / "out" / "adapter_model.safetensors").read_bytes() == wanted
    assert finished
    assert inside >= ROUNDS // 2


def test_two_processes_of_which_one_is_told_to_stop_both_stop_and_end_with_the_undisturbed_bytes(
    tiny_base: Path, tmp_path: Path, forks: Forks
) -> None:
    bench = Bench(tiny_base, tmp_path)
    rows = str(write_rows(tmp_path / "rows.jsonl", ROWS))
    recipe = bench.recipe(processes=2, steps=30, batch=4, accumulation=2, dropout=0.1, checkpoint_every=50)
    whole = bench.write(recipe, {DATASET: rows}, checkpoints=str(tmp_path / "whole"))
    forks.start(whole, world=2)
    assert forks.end() == [0, 0], (whole / "error.txt").read_text()
    checkpoints = tmp_path / "checkpoints"
    stopped = bench.write(recipe, {DATASET: rows}, checkpoints=str(checkpoints))
    pids = forks.start(stopped, world=2)
    wait_for_step(stopped, 3)
    os.kill(pids[1], signal.SIGTERM)
    assert forks.end() == [EXIT_PREEMPTED, EXIT_PREEMPTED]
    done = int((checkpoints / LAST_GOOD).read_text()[5:])
    assert 3 <= done < 30
    assert not (stopped / "out").exists()
    resumed = bench.write(recipe, {DATASET: rows}, checkpoints=str(checkpoints))
    forks.start(resumed, world=2)
    assert forks.end() == [0, 0]
    steps = [e.step for e in read_events(resumed) if e.type is ExecutorEventType.PROGRESS]
    assert steps == list(range(done + 1, 31)), "one process speaks for all, from the checkpoint on"
    name = "out/adapter_model.safetensors"
    assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def wait_for_step(folder: Path, step: int) -> None:
    """Until an executor has said this step, or has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        events = (folder / "events.jsonl").read_bytes() if (folder / "events.jsonl").exists() else b""
        if f'"step":{step},'.encode() in events or b'"finished"' in events:
            return
        time.sleep(0.002)
    raise AssertionError(f"no step {step} within a minute")


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it was done first
