"""The train executor, on a random two-layer model."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.executors.running import DATASET, Bench, Ended, Row, read_events, write_rows

from loradeck.artifacts import verify_adapter
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_DIVERGED, EXIT_OK, EXIT_PREEMPTED, ExecutorEventType
from loradeck.schemas.ids import digest_of
from loradeck.schemas.manifest import AdapterManifest

ROWS: list[Row] = [
    {"prompt": "ping", "answer": "pong"},
    {"prompt": "what is the hour?", "answer": "noon"},
    {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]},
]


def manifest_of(ended: Ended) -> AdapterManifest:
    return AdapterManifest.model_validate_json((ended.out / "manifest.json").read_text())


def test_a_run_says_each_step_and_leaves_an_adapter_that_verifies_against_its_manifest(bench: Bench) -> None:
    ended = bench.train(ROWS, steps=5)
    assert ended.status == EXIT_OK
    events = ended.events
    assert [event.seq for event in events] == list(range(len(events)))
    assert {(event.run, event.attempt, event.v) for event in events} == {("job-1", 2, 1)}
    assert events[0].type == ExecutorEventType.STARTED
    assert [event.type for event in events[1:]].count(ExecutorEventType.STARTED) == 0
    steps = ended.of_type(ExecutorEventType.PROGRESS)
    assert [(event.step, event.of) for event in steps] == [(n, 5) for n in range(1, 6)]
    for event in steps:
        assert event.metrics.keys() == {"loss", "token_accuracy", "grad_norm", "learning_rate", "tokens_per_second"}
        assert all(math.isfinite(value) for value in event.metrics.values())
    assert ended.last.type == ExecutorEventType.FINISHED
    manifest = manifest_of(ended)
    assert ended.last.data["adapter"] == manifest.digest
    assert {path.name for path in ended.out.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    }
    verify_adapter(ended.out, manifest, bench.base, beside={"manifest.json"})
    assert manifest.base == bench.digest
    assert manifest.config_hash == digest_of(bench.recipe(steps=5))


def test_it_learns_its_rows_and_evaluate_finds_them_answered_exactly(bench: Bench) -> None:
    rows = [{"prompt": "ping", "answer": "pong"}]  # as much as two random layers can learn
    trained = bench.train(rows, steps=60, learning_rate=1e-2)
    items = [{"id": "1", **rows[0]}]
    assert trained.of_type(ExecutorEventType.PROGRESS)[-1].metrics["token_accuracy"] == 1
    alone = bench.evaluate(items, max_new_tokens=8)
    taught = bench.evaluate(items, (manifest_of(trained).digest, trained.out), max_new_tokens=8)
    assert (alone.last.data["exact"], taught.last.data["exact"]) == (0, 1)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(bench: Bench) -> None:
    runs = [bench.train(ROWS, seed=seed, dropout=0.1) for seed in (3, 3, 4)]
    weights = [(run.out / "adapter_model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1] != weights[2]
    assert manifest_of(runs[0]).digest == manifest_of(runs[1]).digest


def test_nothing_it_leaves_names_a_path_of_this_machine(bench: Bench) -> None:
    ended = bench.train(ROWS)
    config = json.loads((ended.out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    for path in ended.out.iterdir():
        data = path.read_bytes()
        assert str(bench.root).encode() not in data
        assert str(bench.base).encode() not in data
        assert os.path.expanduser("~").encode() not in data


def test_loss_and_token_accuracy_count_the_answers_tokens_and_no_others(bench: Bench) -> None:
    from loradeck.schemas.executor import ExecutorSpec
    from loradeck_agent.executors.base import load_base
    from loradeck_agent.executors.training.objectives import Supervised
    from loradeck_agent.executors.training.templates import tokenised
    from loradeck_agent.executors.training.trained import AnswerReader, prepared
    from loradeck_agent.executors.training.training_rows import read_lessons

    folder = bench.write(bench.recipe(), {DATASET: str(write_rows(bench.root / "rows.jsonl", ROWS))})
    spec = ExecutorSpec.model_validate_json((folder / "spec.json").read_text())
    base = load_base(spec)
    examples = [tokenised(base, row, 256) for row in read_lessons(bench.root / "rows.jsonl", bench.recipe())]
    assert base.pad != base.eos
    assert all(
        example.ids[-1] == base.eos and base.eos not in example.ids[example.answer_at : -1] for example in examples
    )
    assert base.tokenizer.decode(examples[0].ids[examples[0].answer_at :]) == "pong<|im_end|>"
    assert base.tokenizer.decode(examples[0].ids[: examples[0].answer_at]).endswith("<|im_start|>assistant\n")
    trained = prepared(base, bench.recipe(), None)
    objective = Supervised(AnswerReader(trained, base.pad))
    width = max(len(example.ids) for example in examples)
    ids = torch.tensor([example.ids + [base.pad] * (width - len(example.ids)) for example in examples])
    labels = torch.full_like(ids, -100)
    for i, example in enumerate(examples):
        labels[i, example.answer_at : len(example.ids)] = torch.tensor(example.ids[example.answer_at :])
    with torch.no_grad():
        reference = trained.model(input_ids=ids, labels=labels)
        loss, metrics = objective.loss(examples, examples)
    assert float(loss) == pytest.approx(float(reference.loss), abs=1e-5)
    answers = labels[:, 1:] != -100
    right = (reference.logits[:, :-1].argmax(-1) == labels[:, 1:])[answers]
    assert metrics["token_accuracy"] == pytest.approx(float(right.float().mean()), abs=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run_with_70_and_publishes_nothing(bench: Bench) -> None:
    ended = bench.train(ROWS, steps=10, learning_rate=1e30)
    assert ended.status == EXIT_DIVERGED
    assert (ended.last.type, ended.last.code) == (ExecutorEventType.FAILED, "diverged")
    assert "step 2" in ended.last.message
    assert "Diverged" in ended.error
    assert not ended.out.exists()
    assert not [path for path in ended.folder.iterdir() if "staging" in path.name]


def test_weights_that_are_not_finite_after_the_last_step_are_never_published(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loradeck_agent.executors.training.loop import Loop

    whole = Loop.run

    def overflow(loop: Loop) -> dict[str, Any]:
        found = whole(loop)
        with torch.no_grad():
            next(iter(loop.trained.names.values()))[0, 0] = math.inf
        return found

    monkeypatch.setattr(Loop, "run", overflow)
    ended = bench.train(ROWS, steps=1)
    assert ended.status == EXIT_DIVERGED
    assert "finite" in ended.last.message
    assert not ended.out.exists()


def test_a_row_longer_than_max_tokens_is_refused_by_file_and_line_and_never_cut(bench: Bench) -> None:
    ended = bench.train([*ROWS, {"prompt": "x" * 200, "answer": "y"}], max_tokens=100)
    assert ended.status == EXIT_BAD_SPEC
    assert (ended.last.type, ended.last.code) == (ExecutorEventType.FAILED, "bad_data")
    assert ", line 4: 2" in ended.last.message
    assert ended.of_type(ExecutorEventType.PROGRESS) == []
    assert not ended.out.exists()


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "no answer"},
        {"answer": "no prompt"},
        {"prompt": 1, "answer": "x"},
        {"prompt": "x", "answer": ""},
        {"prompt": "x", "answer": "y", "good": False},
        {"messages": [{"role": "user", "content": "only one"}]},
        {"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "ends with the user"}]},
        ["not an object"],
    ],
)
def test_a_malformed_row_is_refused_by_line(bench: Bench, row: Any) -> None:
    ended = bench.train([ROWS[0], row])
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")
    assert "line 2" in ended.last.message


def test_no_rows_or_an_input_without_a_folder_are_refused(bench: Bench) -> None:
    assert bench.train([]).last.code == "bad_data"
    assert bench.run(bench.recipe(), {}).last.code == "bad_spec"


def test_a_base_of_another_digest_is_refused(bench: Bench, make_base: Any, tmp_path: Path) -> None:
    rows = str(write_rows(tmp_path / "rows.jsonl", ROWS))
    other = make_base(tmp_path / "other", seed=9)  # of the very same shapes
    swapped = bench.run(bench.recipe(), {DATASET: rows}, base=str(other))
    recipe_of_another = bench.run(bench.recipe(base="b" * 64), {DATASET: rows})
    absent = bench.run(bench.recipe(), {DATASET: rows}, base=str(tmp_path / "nowhere"))
    for ended in (swapped, recipe_of_another, absent):
        assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "wrong_base")
        assert not ended.out.exists()


def test_targets_that_the_base_lacks_are_refused(bench: Bench) -> None:
    ended = bench.train(ROWS, target_modules=("query_key_value",))
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_spec")


def test_it_goes_on_from_a_parent_and_refuses_one_of_another_rank(bench: Bench) -> None:
    parent = bench.train(ROWS, steps=30, learning_rate=1e-2)
    digest = manifest_of(parent).digest
    rows = str(write_rows(bench.root / "more.jsonl", ROWS))
    inputs = {DATASET: rows, digest: str(parent.out)}
    child = bench.run(bench.recipe(parent=digest, steps=1, learning_rate=1e-9), inputs)
    assert child.status == EXIT_OK
    assert manifest_of(child).parent == digest
    first = child.of_type(ExecutorEventType.PROGRESS)[0].metrics["loss"]
    assert first < parent.of_type(ExecutorEventType.PROGRESS)[0].metrics["loss"] / 2
    other = bench.run(bench.recipe(parent=digest, rank=2), inputs)
    assert (other.status, other.last.code) == (EXIT_BAD_SPEC, "bad_parent")


def test_sigterm_ends_it_after_the_step_in_hand_with_75_and_nothing_is_published(bench: Bench) -> None:
    rows = write_rows(bench.root / "rows.jsonl", ROWS)
    folder = bench.write(bench.recipe(steps=1_000_000), {DATASET: str(rows)})
    command = [sys.executable, "-m", "loradeck_agent.executors", "train", "--spec", str(folder / "spec.json")]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while not [e for e in read_events(folder) if e.type == ExecutorEventType.PROGRESS]:
            assert process.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == EXIT_PREEMPTED
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    events = read_events(folder)
    assert [event.seq for event in events] == list(range(len(events)))
    assert events[-1].type == ExecutorEventType.PREEMPTED
    steps = [event.step for event in events if event.type == ExecutorEventType.PROGRESS]
    assert steps == list(range(1, len(steps) + 1))
    assert not (folder / "out").exists()
    assert not (folder / "error.txt").exists()


def test_batches_give_each_row_once_before_any_twice() -> None:
    from loradeck_agent.executors.training.loop import batches
    from loradeck_agent.executors.training.templates import Example

    examples = [Example([i], 0) for i in range(7)]
    stream = batches(examples, 3, seed=5)
    drawn = [example.ids[0] for _ in range(7) for example in next(stream)]
    assert len(drawn) == 21
    for epoch in range(3):
        assert sorted(drawn[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    again = batches(examples, 3, seed=5)
    assert [example.ids[0] for _ in range(7) for example in next(again)] == drawn


def test_the_learning_rate_rises_then_falls_and_is_never_zero_or_above_the_recipes(bench: Bench) -> None:
    from loradeck_agent.executors.training.loop import learning_rate

    for steps in (1, 2, 10, 40):
        spec = bench.recipe(steps=steps, learning_rate=1e-3)
        rates = [learning_rate(spec, step) for step in range(steps)]
        top = rates.index(max(rates))
        assert all(0 < rate <= 1e-3 for rate in rates)
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)
