"""What the train executor refuses before its first step, and what it gives up on after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.fakes.word_model import TEMPLATE, write_base
from tests.integration.executors.running import DATASET, SUITE, Bench, Ended, Row, write_rows

from loradeck.artifacts import base_manifest
from loradeck.artifacts.rows.contamination import contaminated
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_DIVERGED, EXIT_OK, EXIT_OUT_OF_MEMORY, ExecutorEventType
from loradeck.schemas.training import Guards
from loradeck_agent.embedded.server import embedded_build
from loradeck_agent.executors.base import read_base
from loradeck_agent.executors.protocol import Diverged, OutOfMemory
from loradeck_agent.executors.training import memory_probe
from loradeck_agent.executors.training.guards import BASELINE_STEPS, WINDOW, Watch
from loradeck_agent.executors.training.templates import template_digest

ROWS: list[Row] = [{"prompt": "ping", "answer": "pong"}, {"prompt": "the hour?", "answer": "noon"}]
LONG = "my card was taken out of my bag on the train to work this morning and somebody has paid with it twice"


def refused(ended: Ended, code: str) -> str:
    assert (ended.status, ended.last.type, ended.last.code) == (EXIT_BAD_SPEC, ExecutorEventType.FAILED, code)
    assert ended.of_type(ExecutorEventType.PROGRESS) == []
    assert not ended.out.exists()
    return ended.last.message


@pytest.fixture
def other_base(bench: Bench, tmp_path: Path) -> Any:
    """`other_base(template=..., **files)`: a bench on a copy of the base with another template or settings."""

    def made(template: str | None = None, generation: dict[str, Any] | None = None) -> Bench:
        folder = shutil.copytree(bench.base, tmp_path / "other-base")
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        if generation is not None:
            path = folder / "generation_config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **generation}))
        root = tmp_path / "other"
        root.mkdir()
        return Bench(folder, root)

    return made


# ---- the evaluation ----------------------------------------------------------------------------------------------


def test_rows_that_hold_items_of_the_evaluation_are_refused_with_the_items_ids(bench: Bench) -> None:
    rows = [*ROWS, {"prompt": "What's  the capital of FRANCE?", "answer": "Paris"}, {"prompt": LONG, "answer": "fraud"}]
    items = [
        {"id": "capital", "prompt": "what's the capital of france", "answer": "Paris"},
        {"id": "train", "prompt": f"Hello, {LONG}. Please help", "answer": "fraud"},
        {"id": "clean", "prompt": "what is the capital of Peru?", "answer": "Lima"},
    ]
    inputs = {
        DATASET: str(write_rows(bench.root / "rows.jsonl", rows)),
        SUITE: str(write_rows(bench.root / "items.jsonl", items)),
    }
    said = refused(bench.run(bench.recipe(), inputs, held_out=(SUITE,)), "contaminated")
    assert "2 items" in said
    assert "capital (the same question)" in said
    assert "train (" in said
    assert "clean" not in said
    assert bench.run(bench.recipe(steps=1), inputs).status == EXIT_OK, "without a suite there is nothing to compare"


def test_items_that_share_only_their_form_with_rows_are_not_contaminated() -> None:
    rows = [f"Ticket to JSON: my parcel number {n} did not arrive" for n in range(50)]
    items = {"a": "Ticket to JSON: my parcel is broken", "b": "Ticket to JSON: where is my parcel number 77 now"}
    assert contaminated(rows, items) == {}


# ---- template and tokens -----------------------------------------------------------------------------------------


def test_another_template_than_the_one_the_rows_were_written_for_is_refused(bench: Bench) -> None:
    template = (bench.base / "chat_template.jinja").read_text()
    assert bench.train(ROWS, steps=1, chat_template=template_digest(template)).status == EXIT_OK
    said = refused(bench.train(ROWS, chat_template="0" * 64), "template_drift")
    assert template_digest(template) in said


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content|trim }}<|im_end|>\n{% endfor %}", "as 'pong'"),
        ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}", "does not end"),
        ("{% for m in messages %}{{ loop.length }}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}",
         "changes the prompt once"),
    ],
)  # fmt: skip
def test_a_template_that_does_not_write_answers_as_they_stand_is_refused_by_row(
    other_base: Any, template: str, says: str
) -> None:
    generation = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    said = refused(other_base(template + generation).train([{"prompt": "ping", "answer": " pong"}]), "template_drift")
    assert says in said
    assert "line 1" in said


def test_a_template_that_adds_what_the_tokenizer_leaves_out_is_fine(tmp_path: Path) -> None:
    bench = Bench(write_base(tmp_path / "words"), tmp_path)
    assert "content }} <|im_end|>" in TEMPLATE, "it puts a space behind each answer"
    assert bench.train([{"prompt": "w1 w2", "answer": "w3"}], steps=1, rank=2).status == EXIT_OK


def test_a_padding_token_among_those_that_end_answers_changes_nothing(bench: Bench, other_base: Any) -> None:
    """As all of Qwen have it. Masks go by position; transformers#48016: by the token, a benchmark fell from 76 to 0."""
    rows = [{"prompt": "ping", "answer": "pong"}, {"prompt": "ping again, at length", "answer": "pong and pong"}]
    usual, other = bench.train(rows), other_base(generation={"eos_token_id": [2, 0]}).train(rows)
    weights = [load_file(ended.out / "adapter_model.safetensors") for ended in (usual, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_an_engine_that_would_stop_at_another_token_is_refused(other_base: Any) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|endoftext|>\n{% endfor %}"
    assert "stop at [2]" in refused(other_base(template).train(ROWS), "eos_mismatch")


def test_engines_stop_at_the_tokenizers_own_end_too_as_vllm_does(other_base: Any) -> None:
    assert other_base(generation={"eos_token_id": 7}).train(ROWS).status == EXIT_OK


def test_a_changed_template_makes_another_base(bench: Bench, other_base: Any) -> None:
    other = other_base((bench.base / "chat_template.jinja").read_text() + " ")
    rows = str(write_rows(bench.root / "rows.jsonl", ROWS))
    refused(bench.run(bench.recipe(), {DATASET: rows}, base=str(other.base)), "wrong_base")
    assert base_manifest(other.base, "-", "-").digest != bench.digest


def test_a_rank_above_the_smallest_side_of_the_targeted_modules_is_refused(bench: Bench) -> None:
    assert "above 24" in refused(bench.train(ROWS, rank=32), "bad_spec")


# ---- memory ------------------------------------------------------------------------------------------------------


def test_the_longest_batch_is_probed_before_the_first_step_and_its_peak_is_said(bench: Bench) -> None:
    ended = bench.train([*ROWS, {"prompt": "x" * 90, "answer": "y"}], steps=2)
    events = ended.events
    fits = next(i for i, event in enumerate(events) if "peak_memory_bytes" in event.metrics)
    first = next(i for i, event in enumerate(events) if event.type == ExecutorEventType.PROGRESS)
    assert fits < first
    assert events[fits].metrics["longest_tokens"] > 90
    assert 0 < events[fits].metrics["peak_memory_bytes"] < events[fits].metrics["memory_bytes"]
    assert ended.last.data["peak_memory_bytes"] == events[fits].metrics["peak_memory_bytes"]


def test_a_batch_that_does_not_fit_ends_with_71_before_the_first_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_probe, "memory_available", lambda: -(10**12))
    ended = bench.train(ROWS)
    assert (ended.status, ended.last.code) == (EXIT_OUT_OF_MEMORY, "out_of_memory")
    assert "max_tokens" in ended.last.message
    assert ended.of_type(ExecutorEventType.PROGRESS) == []


def test_what_the_optimiser_will_keep_counts_as_well() -> None:
    held = memory_probe.peak_rss()
    assert memory_probe.probe(lambda: None, 1000, available=held)["peak_memory_bytes"] == held + 1000
    with pytest.raises(OutOfMemory, match="smaller batch"):
        memory_probe.probe(lambda: None, 100 * held, available=held)


def test_a_control_groups_limit_is_what_a_node_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_probe, "CGROUP", tmp_path)
    host = memory_probe.memory_available()
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory_probe.memory_available() == 300
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_probe.memory_available() > host / 2


# ---- guards ------------------------------------------------------------------------------------------------------


def test_a_loss_that_jumps_and_stays_up_ends_the_run_and_one_that_comes_back_does_not() -> None:
    watch = Watch(Guards(spike=4, spikes=3))
    for step in range(BASELINE_STEPS):
        watch.look(step, 1.0, 1.0)
    for step, loss in enumerate((9.0, 9.0, 1.0, 9.0, 9.0), BASELINE_STEPS):
        watch.look(step, loss, 1.0)
    with pytest.raises(Diverged, match=r"9\.0 times") as gave_up:
        watch.look(20, 9.0, 1.0)
    assert gave_up.value.code == "loss_spike"


def test_a_high_loss_at_the_beginning_is_no_spike() -> None:
    watch = Watch(Guards())
    for step, loss in enumerate((0.5, 9.0, 9.0, 9.0, 9.0, 8.0)):
        watch.look(step, loss, 1.0)


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (1.0, float("nan")), (float("inf"), 1.0)])
def test_a_value_that_is_not_finite_ends_the_run_at_once(loss: float, norm: float) -> None:
    with pytest.raises(Diverged, match="step 1: loss") as gave_up:
        Watch(Guards()).look(1, loss, norm)
    assert gave_up.value.code == "diverged"


def test_chosen_answers_that_become_unlikely_end_a_preference_run() -> None:
    watch = Watch(Guards(chosen_drop=0.5))
    for step in range(2 * WINDOW):
        watch.chosen(step, -24.0, -20.0)  # a fifth: usual
    for step in range(WINDOW // 2 - 1):
        watch.chosen(step, -80.0, -20.0)  # of the last steps it is not yet half
    with pytest.raises(Diverged, match=r"log p\(chosen\) fell to -80") as gave_up:
        watch.chosen(20, -80.0, -20.0)
    assert gave_up.value.code == "chosen_fell"


def test_a_spike_in_a_run_ends_it_with_70_and_publishes_nothing(bench: Bench) -> None:
    """It hardly learns, so that a row whose loss is above the median is one again whenever it is drawn."""
    hard = {"prompt": "zq#9", "answer": "}~^"}
    ended = bench.train([*ROWS, hard], steps=40, batch=1, learning_rate=1e-6, guards={"spike": 1.001, "spikes": 1})
    assert ended.status == EXIT_DIVERGED, ended.last
    assert ended.last.code == "loss_spike"
    assert not ended.out.exists()


# ---- the engine that serves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [False, True])
def test_rows_that_the_engine_which_serves_would_read_otherwise_are_refused(bench: Bench, other: bool) -> None:
    base, asked = read_base(bench.base), list[dict[str, Any]]()

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question)
        ids = base.prompt_ids(question["messages"])
        return {"ids": [*ids, ids[0]] if other and "second" in str(question) else ids}

    rows = [{"prompt": "first?", "answer": "1"}, {"prompt": "second?", "answer": "2"}]
    inputs = {DATASET: str(write_rows(bench.root / "read.jsonl", rows))}
    with bench.door(answer, embedded_build("float32"), scores=False) as door:
        ended = bench.run(bench.recipe(steps=1), inputs, engine=door)
    assert sorted(str(question["messages"][-1]["content"]) for question in asked) == ["first?", "second?"]
    if not other:
        assert ended.status == EXIT_OK, ended.last
        return
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "template_drift")
    assert "read.jsonl, line 2: the engine that serves reads the row in other tokens" in ended.last.message
