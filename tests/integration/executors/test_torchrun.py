"""The train executor in two processes under torchrun, as an agent starts it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.integration.executors.running import DATASET, Bench, Row, read_events, write_rows
from torch import distributed

from loradeck.schemas.jobs import EXIT_BAD_SPEC, EXIT_OK, ExecutorEventType
from loradeck_agent.executors.training.process_group import joined
from loradeck_agent.jobs.executor import torchrun_argv

ROWS: list[Row] = [{"prompt": f"what is {n}?", "answer": f"it is {n * n}"} for n in range(7)]
WEIGHTS = "out/adapter_model.safetensors"


def test_two_processes_take_the_steps_that_one_would(bench: Bench) -> None:
    rows = str(write_rows(bench.root / "rows.jsonl", ROWS))
    alone = bench.run(bench.recipe(steps=4, batch=4, learning_rate=1e-2), {DATASET: rows})
    assert alone.status == EXIT_OK
    folder = bench.write(bench.recipe(steps=4, batch=4, learning_rate=1e-2, processes=2), {DATASET: rows})
    command = torchrun_argv("train", folder / "spec.json", 2)
    log = folder / "log.txt"
    with log.open("wb") as file:
        done = subprocess.run(
            command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=150
        )
    assert done.returncode == 0, log.read_text()
    events = read_events(folder)
    assert events[-1].type is ExecutorEventType.FINISHED
    assert [e.seq for e in events] == list(range(len(events)))
    ours = [e.metrics["loss"] for e in events if e.type is ExecutorEventType.PROGRESS]
    theirs = [e.metrics["loss"] for e in alone.of_type(ExecutorEventType.PROGRESS)]
    assert ours == pytest.approx(theirs, rel=1e-4)
    one, two = load_file(alone.folder / WEIGHTS), load_file(folder / WEIGHTS)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[key], two[key], atol=2e-3) for key in one)


def test_a_recipe_for_two_processes_is_refused_by_one(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(ROWS, processes=2)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_spec")
    assert "for 2 processes, 1 were started" in ended.last.message


def test_each_process_takes_its_own_gpu_before_it_meets_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nccl calls its device is the current one: without this all ranks would meet on the first GPU."""
    done: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: done.append(str(device)))
    monkeypatch.setattr(distributed, "init_process_group", done.append)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: done.append("left"))
    with joined(2) as world:
        assert (world.rank, world.size) == (1, 2)
    assert done == ["cuda:1", "nccl", "left"]
