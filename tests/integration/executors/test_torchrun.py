"""Recipes for several processes, in this one; under torchrun they are run by tests/services/test_many_processes.py."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.integration.executors.running import DATASET, Bench, Row, write_rows
from torch import distributed

from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK, ExecutorEventType
from loradeck.schemas.jobs import level_of
from loradeck_agent.executors import train as train_executor
from loradeck_agent.executors.training.process_group import World, joined

ROWS: list[Row] = [{"prompt": f"what is {n}?", "answer": f"it is {n * n}"} for n in range(7)]
TALK = "e" * 64
WEIGHTS = "out/adapter_model.safetensors"
SHARDED = {"batch": 4, "processes": 2, "sharded": True, "precision": "bf16"}


def test_a_recipe_for_two_processes_is_refused_by_one(bench: Bench, tmp_path: Path) -> None:
    ended = bench.train(ROWS, processes=2)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_spec")
    assert "for 2 processes, 1 were started" in ended.last.message


def test_the_pieces_of_a_step_are_the_same_for_any_number_of_processes() -> None:
    rows = list(range(24))
    whole = dict(World().share(rows, 12))
    for size in (2, 3, 4, 6, 12):
        shares = [World(rank, size).share(rows, 12) for rank in range(size)]
        assert {len(share) for share in shares} == {12 // size}
        assert {number: piece for share in shares for number, piece in share} == whole


def test_a_run_of_two_processes_goes_on_in_one_with_the_same_rows_pieces_and_dropout(bench: Bench) -> None:
    """In one process from the start it is, byte for byte, the recipe of one process with twice the accumulation."""
    inputs = {DATASET: str(write_rows(bench.root / "rows.jsonl", ROWS))}
    settings = {"steps": 4, "batch": 4, "learning_rate": 1e-2, "dropout": 0.1}
    alone = bench.run(bench.recipe(accumulation=2, **settings), inputs)
    fewer = bench.run(bench.recipe(processes=2, **settings), inputs, processes=1)
    assert (alone.status, fewer.status) == (EXIT_OK, EXIT_OK), fewer.last
    one, two = ([e.metrics["loss"] for e in run.of_type(ExecutorEventType.PROGRESS)] for run in (alone, fewer))
    assert one == two
    assert (alone.folder / WEIGHTS).read_bytes() == (fewer.folder / WEIGHTS).read_bytes()


def test_processes_that_cannot_share_a_step_evenly_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = bench.train(ROWS, batch=3, processes=3)
    assert "for 3 processes, 1 were started" in ended.last.message
    monkeypatch.setattr(train_executor, "joined", lambda _: nullcontext(World(0, 2)))
    ended = bench.train(ROWS, batch=3, processes=3)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_spec")
    assert "2 processes cannot share the 3 pieces" in ended.last.message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"precision": "nf4"}, "its four bits and their scales lie apart"),
        ({"processes": 1}, "for more than one process"),
        ({"weights": "full", "precision": "fp32"}, "for supervised and lora"),
        (
            {"kl": 0.1, "datasets": (DATASET, TALK), "mixing": {"dataset": TALK, "share": 0.5}},
            "keep the others",
        ),
    ],
)
def test_a_recipe_that_cannot_be_divided_says_why(bench: Bench, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        bench.recipe(**{**SHARDED, **changes})
    assert level_of(bench.recipe(**SHARDED)) == 1, "an agent of before would hold the whole base in each process"


def test_a_divided_base_that_goes_on_in_one_process_is_read_whole(bench: Bench) -> None:
    inputs = {DATASET: str(write_rows(bench.root / "rows.jsonl", ROWS))}
    assert bench.run(bench.recipe(steps=1, **SHARDED), inputs, processes=1).status == EXIT_OK


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
