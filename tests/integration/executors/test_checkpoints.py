"""Checkpoints of the train executor: a run that was cut off ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.executors.running import DATASET, Bench, Ended, Row, write_rows

from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_DIVERGED, EXIT_OK, EXIT_PREEMPTED, ExecutorEventType
from loradeck_agent.executors.training import process_group
from loradeck_agent.executors.training.checkpoints import LAST_GOOD, CheckpointFolder
from loradeck_agent.executors.training.loop import Loop
from loradeck_agent.executors.training.process_group import World
from loradeck_agent.executors.training.trained import Trained

GENERAL = "e" * 64
ROWS: list[Row] = [{"prompt": f"what is {n}?", "answer": f"it is {n * n}"} for n in range(9)]
TALK: list[Row] = [{"prompt": f"say {word}", "answer": f"{word}, then"} for word in ("hello", "well", "so", "now")]
RECIPE: dict[str, Any] = {
    "datasets": (DATASET, GENERAL),
    "mixing": {"dataset": GENERAL, "share": 0.4},
    "validation": {"rows": 2, "every": 3, "answers": 1, "max_new_tokens": 4},
    "kl": 0.1,
    "dropout": 0.2,
    "steps": 9,
    "checkpoint_every": 2,
    "batch": 4,
    "accumulation": 2,
    "learning_rate": 1e-2,
}


class Runs:
    """One recipe, run as often as wanted over the same folder of checkpoints."""

    def __init__(self, bench: Bench, canaries: Any = ()) -> None:
        self.bench = bench
        self._canaries = canaries
        self.checkpoints = bench.root / "checkpoints"
        self._inputs = {
            DATASET: str(write_rows(bench.root / "task.jsonl", ROWS)),
            GENERAL: str(write_rows(bench.root / "talk.jsonl", TALK)),
        }

    def run(self, **changes: Any) -> Ended:
        spec = self.bench.recipe(**{**RECIPE, **changes})
        return self.bench.run(spec, self._inputs, checkpoints=str(self.checkpoints), canaries=self._canaries)

    @property
    def folders(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.glob("step-*"))

    @property
    def last_good(self) -> str:
        return (self.checkpoints / LAST_GOOD).read_text()


@pytest.fixture
def runs(bench: Bench) -> Runs:
    return Runs(bench)


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[Runs, int], Ended]:
    """Runs a recipe whose process fails before it takes this step."""

    def cut(runs: Runs, before: int, **changes: Any) -> Ended:
        step = Loop._step

        def failing(loop: Loop, number: int, rows: Any) -> dict[str, float]:
            if number == before:
                raise RuntimeError("cut off")
            return step(loop, number, rows)

        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_step", failing)
            return runs.run(**changes)

    return cut


def adapter(ended: Ended) -> bytes:
    assert ended.status == EXIT_OK, ended.last
    return (ended.out / "adapter_model.safetensors").read_bytes()


def steps(ended: Ended) -> list[int | None]:
    return [e.step for e in ended.of_type(ExecutorEventType.PROGRESS) if "loss" in e.metrics]


def said(ended: Ended) -> str:
    return " | ".join(event.message for event in ended.events)


def test_a_resumed_run_is_the_undisturbed_one_byte_for_byte(runs: Runs, cut_off: Any) -> None:
    """Dropout, order of rows, mixing, accumulation, optimizer, schedule, guards and the choice of the best look."""
    whole = runs.run()
    shutil.rmtree(runs.checkpoints)
    for before in (6, 8):  # cut off twice
        assert cut_off(runs, before).last.code == "executor_failed"
    resumed = runs.run()
    assert "resumed after step 6, bit for bit" in said(resumed)
    assert steps(resumed) == [7, 8, 9]
    assert adapter(resumed) == adapter(whole)
    for key in ("looks", "chosen_step", "loss", "grad_norm", "adapter"):
        assert resumed.last.data[key] == whole.last.data[key]


def test_a_resumed_run_of_every_weight_still_holds_its_canaries_against_the_base(bench: Bench, cut_off: Any) -> None:
    runs = Runs(bench, canaries=(({"role": "user", "content": "hello"},),))
    every = {"weights": "full", "kl": 0.0, "dropout": 0.0}
    whole = runs.run(**every)
    shutil.rmtree(runs.checkpoints)
    cut_off(runs, 6, **every)
    resumed = runs.run(**every)
    assert "resumed after step 4, bit for bit" in said(resumed)
    assert whole.last.data["looks"][-1]["canaries_changed"] == 1
    assert resumed.last.data["looks"] == whole.last.data["looks"]


def test_a_run_that_is_told_to_stop_keeps_a_checkpoint_of_its_last_step(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = runs.run()
    shutil.rmtree(runs.checkpoints)
    step = Loop._step

    def told(loop: Loop, number: int, rows: Any) -> dict[str, float]:
        loop.current.stopping = number == 5
        return step(loop, number, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", told)
        stopped = runs.run()
    assert (stopped.status, stopped.last.type) == (EXIT_PREEMPTED, ExecutorEventType.PREEMPTED)
    assert runs.last_good == "step-00000005"
    assert stopped.of_type(ExecutorEventType.CHECKPOINT)[-1].data["folder"] == runs.last_good
    resumed = runs.run()
    assert steps(resumed) == [6, 7, 8, 9]
    assert adapter(resumed) == adapter(whole)


def test_only_the_newest_checkpoints_are_kept(runs: Runs) -> None:
    runs.run(keep=3)
    assert runs.folders == ["step-00000004", "step-00000006", "step-00000008"]
    assert runs.last_good == runs.folders[-1]
    assert {path.name for path in (runs.checkpoints / runs.last_good).iterdir()} == {
        "weights.safetensors",
        "optimizer.safetensors",
        "best.safetensors",
        "state.json",
        "manifest.json",
    }


def truncate(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def without_optimizer(folder: Path) -> None:
    (folder / "optimizer.safetensors").unlink()


def without_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def one_bit(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "weights.safetensors"),
        (without_optimizer, "optimizer.safetensors"),
        (one_bit, "optimizer.safetensors"),
        (without_manifest, "manifest.json"),
        (shutil.rmtree, "manifest.json"),
    ],
    ids=["truncated", "missing optimizer state", "one bit flipped", "missing manifest", "missing folder"],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_with_the_reason(
    runs: Runs, cut_off: Any, damage: Callable[[Path], None], reason: str
) -> None:
    cut_off(runs, 7)
    assert runs.folders == ["step-00000004", "step-00000006"]
    damage(runs.checkpoints / "step-00000006")
    resumed = runs.run()
    assert "step-00000006 is not whole" in said(resumed)
    assert reason in said(resumed)
    assert steps(resumed) == [5, 6, 7, 8, 9]
    assert resumed.status == EXIT_OK


def test_where_no_good_checkpoint_is_whole_the_run_is_refused_and_the_folder_stays_as_it_is(
    runs: Runs, cut_off: Any
) -> None:
    cut_off(runs, 7)
    for name in runs.folders:
        without_optimizer(runs.checkpoints / name)
    before = sorted(path.name for path in runs.checkpoints.rglob("*"))
    ended = runs.run()
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_checkpoint")
    assert "optimizer.safetensors" in ended.last.message
    assert not ended.out.exists()
    assert sorted(path.name for path in runs.checkpoints.rglob("*")) == before


def test_a_checkpoint_that_never_had_an_optimizer_state_is_passed_over_though_its_manifest_agrees(
    runs: Runs, cut_off: Any
) -> None:
    cut_off(runs, 7)
    folder = runs.checkpoints / "step-00000006"
    without_optimizer(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = [file for file in manifest["files"] if file["path"] != "optimizer.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    resumed = runs.run()
    assert "step-00000006 is not whole: it has no optimizer" in said(resumed)
    assert steps(resumed)[0] == 5


def test_an_optimizer_state_of_other_weights_is_refused_even_where_its_hash_is_right(bench: Bench) -> None:
    import torch

    from loradeck_agent.executors.protocol import BadSpec
    from loradeck_agent.executors.training.checkpoints import restore_optimizer

    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.AdamW([a, b])
    part = {"a/step": torch.tensor(1.0), "a/exp_avg": torch.zeros(2), "a/exp_avg_sq": torch.zeros(2)}
    with pytest.raises(BadSpec, match="1 missing, first b"):
        restore_optimizer(optimiser, {"a": a, "b": b}, part)
    assert not optimiser.state


def test_a_folder_with_a_higher_number_that_was_never_named_is_not_resumed_from(runs: Runs, cut_off: Any) -> None:
    cut_off(runs, 5)
    shutil.copytree(runs.checkpoints / "step-00000004", runs.checkpoints / "step-00000008")
    (runs.checkpoints / ".step-00000006.staging").mkdir()
    assert steps(runs.run())[0] == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch": 8}, "batch was 4, is 8"),
        ({"accumulation": 1}, "accumulation was 2, is 1"),
        ({"seed": 5}, "seed was 0, is 5"),
        ({"datasets": (GENERAL, DATASET)}, "datasets was"),
        ({"learning_rate": 2e-2}, "recipe was"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(
    runs: Runs, cut_off: Any, changes: dict[str, Any], says: str
) -> None:
    cut_off(runs, 5)
    kept = runs.last_good
    ended = runs.run(**changes)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "resume_mismatch")
    assert says in ended.last.message
    assert runs.last_good == kept


def test_a_disk_that_refuses_a_checkpoint_leaves_the_last_good_one(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, cut_off: Any
) -> None:
    sync, refuse = os.fsync, [False]

    def fsync(fd: int) -> None:
        if refuse[0]:
            raise OSError(5, "Input/output error")
        sync(fd)

    save = CheckpointFolder.save

    def failing(folder: CheckpointFolder, number: int, *rest: Any) -> Path:
        refuse[0] = number >= 6
        return save(folder, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "save", failing)
        patch.setattr("loradeck_agent.executors.protocol.os.fsync", fsync)
        patch.setattr("loradeck.schemas.executor.TERMINAL", frozenset())  # its own fsync is not the point
        ended = runs.run()
    assert ended.last.code == "os_error"
    assert runs.last_good == "step-00000004"
    assert steps(runs.run())[0] == 5


def test_steps_do_not_wait_for_the_disk_that_writes_a_checkpoint(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer of the first checkpoint waits until a later step begins, which it never would if steps waited."""
    step, save, gone_on = Loop._step, CheckpointFolder.save, threading.Event()

    def noted(loop: Loop, number: int, rows: Any) -> dict[str, float]:
        if number == 3:
            gone_on.set()
        return step(loop, number, rows)

    def slow(folder: CheckpointFolder, number: int, *rest: Any) -> Path:
        assert number > 2 or gone_on.wait(60)
        return save(folder, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", noted)
        patch.setattr(CheckpointFolder, "save", slow)
        ended = runs.run()
    assert adapter(ended)
    told = [(event.step, event.data["folder"]) for event in ended.of_type(ExecutorEventType.CHECKPOINT)]
    assert told == [(at, f"step-{at:08d}") for at in (2, 4, 6, 8)]


def test_processes_whose_weights_differ_end_the_run_and_save_nothing(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "same", lambda world, value: False)
    ended = runs.run()
    assert (ended.status, ended.last.code) == (EXIT_DIVERGED, "ranks_differ")
    assert runs.folders == []


def test_a_checksum_tells_one_bit_of_one_weight_and_all_processes_get_one_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = torch.nn.Linear(3, 2)
    trained = Trained(model, dict(model.named_parameters()), None, {})
    before = trained.checksum()
    assert trained.checksum() == before < 2**56
    with torch.no_grad():
        model.weight.view(torch.int32)[1, 2] ^= 1
    after = trained.checksum()
    assert after != before

    def reduced(ends: torch.Tensor, how: Any) -> None:
        ends.copy_(torch.maximum(ends, torch.tensor([before, -before])))

    monkeypatch.setattr(process_group.distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr(process_group.distributed, "all_reduce", reduced)
    assert World(0, 2).same(before)
    assert not World(0, 2).same(after)
    assert World().same(after), "one process agrees with itself"
