"""Recipes of the train executor: what each one teaches, on a random two-layer model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.integration.executors.running import DATASET, SUITE, Bench, Ended, Row, write_rows
from tests.integration.executors.test_safety import said

from loradeck.artifacts import base_manifest, verify_adapter
from loradeck.artifacts.lora_config import CONFIG, read_lora
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_DIVERGED, EXIT_OK, ExecutorEventType
from loradeck.schemas.manifest import AdapterManifest, BaseManifest
from loradeck_agent.executors.protocol import BadSpec
from loradeck_agent.executors.training.loop import batches
from loradeck_agent.executors.training.training_rows import read_lessons
from loradeck_agent.executors.training.validation import _rank, hold_back

GENERAL = "e" * 64
ROWS: list[Row] = [{"prompt": f"what is {n}?", "answer": f"it is {n * n}"} for n in range(6)]
TALK: list[Row] = [{"prompt": f"say {word}", "answer": f"{word}, then"} for word in ("hello", "well", "so", "no", "oh")]
PAIRS: list[Row] = [{"prompt": f"{n} is?", "chosen": f"even {n}", "rejected": f"odd {n}"} for n in range(0, 12, 2)]

TOOL_TEMPLATE = """{%- if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.tool_calls %}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}\
{% else %}{{ m.content }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def metrics(ended: Ended) -> list[dict[str, float]]:
    assert ended.status == EXIT_OK, ended.last
    return [e.metrics for e in ended.of_type(ExecutorEventType.PROGRESS) if "loss" in e.metrics]


def with_general(bench: Bench, **changes: Any) -> Ended:
    inputs = {
        DATASET: str(write_rows(bench.root / "task.jsonl", ROWS)),
        GENERAL: str(write_rows(bench.root / "talk.jsonl", TALK)),
    }
    recipe = bench.recipe(datasets=(DATASET, GENERAL), mixing={"dataset": GENERAL, "share": 0.5}, **changes)
    return bench.run(recipe, inputs)


def call(**arguments: Any) -> Row:
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "weather", **arguments}}]}


def asking(answer: Any, **more: Any) -> Row:
    return {"messages": [{"role": "user", "content": "rain in Oslo?"}], "tools": [WEATHER], "answer": answer, **more}


# ---- specs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch": 6, "accumulation": 4}, "multiple of accumulation"),
        ({"mixing": {"dataset": "f" * 64, "share": 0.2}}, "one of datasets"),
        ({"mixing": {"dataset": DATASET, "share": 0.2}}, "beside the general one"),
        ({"weights": "full", "kl": 0.1}, "kl needs lora"),
        ({"weights": "full", "parent": "a" * 64}, "no parent"),
        ({"method": "dpo", "weights": "full"}, "preferences need lora"),
        ({"method": "ipo", "dropout": 0.1}, "preferences need lora"),
        ({"method": "dpo", "kl": 0.1}, "preferences have no kl"),
        ({"method": "dpo", "turns": "all"}, "turns and packing are for supervised"),
        ({"method": "kto", "packing": True}, "turns and packing are for supervised"),
        ({"method": "kto", "weights": "full"}, "need lora"),
        ({"method": "kto", "parent": "a" * 64}, "kto needs one process and has no parent"),
        ({"method": "kto", "batch": 1}, "kto needs at least two rows in a batch"),
        ({"method": "grpo"}, "sampling is for grpo"),
        ({"sampling": {}}, "sampling is for grpo"),
        ({"method": "distil"}, "distillation is for distil"),
        ({"safety": {"dataset": "f" * 64}}, "safety is looked at with validation"),
        ({"safety": {"dataset": DATASET}, "validation": {}}, "never trained on"),
        ({"weights": "full", "precision": "bf16"}, "full needs fp32"),
        ({"structure": {"form": "tool_call", "answer_schema": "{}"}}, "answer_schema is for json"),
        ({"method": "ppo"}, "supervised"),
        ({"ranks": 8}, "ranks"),
    ],
)
def test_a_recipe_whose_parts_contradict_each_other_is_no_recipe(
    bench: Bench, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        bench.recipe(**changes)


# ---- mixing and the pull to the base -----------------------------------------------------------------------------


def test_general_rows_come_in_their_share_and_each_once_before_any_twice() -> None:
    task, general = [f"t{i}" for i in range(10)], [f"g{i}" for i in range(7)]
    stream = batches(task, 4, 1, general, 0.3)
    drawn = [row for _ in range(100) for row in next(stream)]
    assert sum(row in general for row in drawn) / len(drawn) == pytest.approx(0.3, abs=0.02)
    times = [drawn.count(row) for row in general]
    assert max(times) - min(times) <= 1
    assert sorted([row for row in drawn if row in task][:10]) == task


def test_rows_are_drawn_by_their_weights_exactly_and_rows_of_one_weight_take_turns() -> None:
    weights = {"g": 2.0, "c": 1.0, "s": 0.25}
    task = [f"{kind}{i}" for kind in weights for i in range(4)]
    stream = batches(task, 13, 1, weight=lambda row: weights[row[0]])  # a pass is 8 + 4 + 1 rows
    for turn in range(1, 5):
        drawn = [row for _ in range(4) for row in next(stream)]
        assert {row: drawn.count(row) for row in task} == {row: int(4 * weights[row[0]]) for row in task}, turn


def test_general_rows_keep_their_share_and_are_drawn_by_their_weights_too() -> None:
    weights = {"t": 1.0, "g": 3.0, "s": 0.5}
    stream = batches(["t0", "t1", "t2"], 4, 1, ["g0", "s0", "s1"], 0.5, lambda row: weights[row[0]])
    drawn = [row for _ in range(60) for row in next(stream)]
    assert sum(row[0] == "t" for row in drawn) == 120
    assert [drawn.count(row) for row in ("g0", "s0", "s1")] == [90, 15, 15]


def test_weights_by_quality_train_what_rows_written_out_in_their_number_train(bench: Bench) -> None:
    gold, scraped = ({"provenance": {"quality": said}} for said in ("gold", "scraped"))
    rows = [ROWS[0] | gold, ROWS[1] | scraped, ROWS[2]]
    found = []
    for weights, written in (({"gold": 2}, [ROWS[0], ROWS[0], ROWS[1], ROWS[2]]), ({"scraped": 0}, [ROWS[0]])):
        ended, plain = bench.train(rows, quality=weights), bench.train(written)
        assert (ended.status, plain.status) == (EXIT_OK, EXIT_OK)
        weighed, alike = ((run.out / "adapter_model.safetensors").read_bytes() for run in (ended, plain))
        assert weighed == alike
        found.append(weighed)
    assert found[0] != found[1]


def test_rows_without_a_quality_have_that_of_their_dataset(bench: Bench) -> None:
    folder = bench.root / "dataset"
    folder.mkdir()
    write_rows(folder / "rows.jsonl", [{**ROWS[0], "provenance": {"quality": "scraped"}}, ROWS[1]])
    (folder / "manifest.json").write_text('{"provenance": {"quality": "curated"}}')
    spec = bench.recipe(quality={"gold": 4, "curated": 3, "scraped": 0})
    assert [(lesson.question, lesson.weight) for lesson in read_lessons(folder, spec)] == [(ROWS[1]["prompt"], 3)]
    (folder / "manifest.json").write_text('{"provenance": {}}')
    with pytest.raises(BadSpec, match="holds no rows that its quality lets in"):
        read_lessons(folder, spec)


def test_the_pull_to_the_base_is_said_and_keeps_the_model_nearer_to_it(bench: Bench) -> None:
    free = metrics(with_general(bench, steps=12, batch=6, learning_rate=1e-2, kl=1e-9))
    held = metrics(with_general(bench, steps=12, batch=6, learning_rate=1e-2, kl=5.0))
    assert free[0]["kl"] == pytest.approx(0, abs=1e-5), "before the first step model and base are one"
    assert held[-1]["kl"] < free[-1]["kl"] / 2


def test_the_pull_to_the_base_is_the_same_however_a_step_is_cut_into_pieces(bench: Bench) -> None:
    runs = [
        metrics(with_general(bench, steps=6, batch=4, learning_rate=1e-2, kl=1.0, accumulation=pieces))
        for pieces in (1, 2, 4)
    ]
    assert runs[0][-1]["kl"] > 0.01, "the model has moved"
    for run in runs[1:]:
        assert [step["kl"] for step in run] == pytest.approx([step["kl"] for step in runs[0]], rel=1e-3, abs=1e-6)
        assert run[-1]["loss"] == pytest.approx(runs[0][-1]["loss"], rel=1e-3)


def test_the_pull_to_the_base_is_by_the_general_rows_alone_where_a_recipe_mixes_some_in(bench: Bench) -> None:
    seeds = [seed for seed in range(20) if _first_rows(seed)[1].startswith("t")]
    for seed in seeds[:2]:
        last = metrics(with_general(bench, steps=2, batch=1, learning_rate=1e-2, kl=1.0, seed=seed))[-1]
        assert last["kl"] == 0.0, "a task row pulls nothing, and the model has moved"


def _first_rows(seed: int) -> list[str]:
    """The first two rows that a seed draws one by one: of the task (t0 ...) or general ones (g0 ...)."""
    task, general = [f"t{i}" for i in range(len(ROWS))], [f"g{i}" for i in range(len(TALK))]
    drawn = batches(task, 1, seed, general, 0.5)
    return [next(drawn)[0] for _ in range(2)]


# ---- a parent -----------------------------------------------------------------------------------------------------


def test_a_parent_of_another_alpha_is_refused_since_its_effect_would_be_multiplied(bench: Bench) -> None:
    inputs = {DATASET: str(write_rows(bench.root / "task.jsonl", ROWS))}
    made = bench.run(bench.recipe(steps=1, alpha=16), inputs)
    parent = made.last.data["adapter"]
    inputs[parent] = str(made.out)
    ended = bench.run(bench.recipe(steps=1, alpha=64, parent=parent), inputs)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_parent")
    assert "multiplied by 4" in ended.last.message
    assert "alpha = 16" in ended.last.message
    assert bench.run(bench.recipe(steps=1, alpha=16, parent=parent), inputs).status == EXIT_OK
    stabilised = bench.run(bench.recipe(steps=1, alpha=16, rslora=True, parent=parent), inputs)
    assert stabilised.last.code == "bad_parent", stabilised.last
    assert "multiplied by 2.82843" in stabilised.last.message, "16 / sqrt(8) beside 16 / 8"
    assert "this recipe alpha = 16 and rslora = true" in stabilised.last.message
    assert stabilised.last.message.endswith("Train with alpha = 16 and rslora = false")


def test_a_recipe_may_ask_for_rank_stabilised_lora_and_its_adapter_says_so(bench: Bench) -> None:
    inputs = {DATASET: str(write_rows(bench.root / "task.jsonl", ROWS))}
    made = bench.run(bench.recipe(steps=1, rslora=True), inputs)
    assert made.status == EXIT_OK, made.last
    lora = read_lora(made.out / CONFIG)
    assert lora.of("model.layers.0.self_attn.q_proj") == (lora.r, lora.lora_alpha / math.sqrt(lora.r))
    manifest = AdapterManifest.model_validate_json((made.out / "manifest.json").read_text())
    verify_adapter(made.out, manifest, bench.base, beside={"manifest.json"})


def test_modules_have_ranks_and_alphas_of_their_own_and_the_adapter_fits_what_serves_it(bench: Bench) -> None:
    inputs = {DATASET: str(write_rows(bench.root / "task.jsonl", ROWS))}
    own = {"rank_pattern": {"v_proj": 2, "0.self_attn.q_proj": 3}, "alpha_pattern": {"v_proj": 5}}
    made = bench.run(bench.recipe(steps=1, target_modules=["q_proj", "v_proj"], rank=1, alpha=4, **own), inputs)
    assert made.status == EXIT_OK, made.last
    lora = read_lora(made.out / CONFIG)
    assert lora.of("model.layers.0.self_attn.v_proj") == (2, 2.5)
    assert lora.of("model.layers.0.self_attn.q_proj") == (3, 4 / 3)
    manifest = AdapterManifest.model_validate_json((made.out / "manifest.json").read_text())
    assert (manifest.rank, manifest.alpha) == (3, 4)
    verify_adapter(made.out, manifest, bench.base, beside={"manifest.json"})
    high = bench.run(bench.recipe(steps=1, target_modules=["q_proj"], rank_pattern={"q_proj": 512}), inputs)
    assert (high.status, high.last.code) == (EXIT_BAD_SPEC, "bad_spec")
    assert "rank 512 is above" in high.last.message


# ---- validation --------------------------------------------------------------------------------------------------


def test_held_back_rows_are_never_trained_on_and_the_same_for_a_seed() -> None:
    rows = list(range(20))
    kept, held = hold_back(rows, 5, seed=3)
    assert sorted(kept + held) == rows
    assert len(held) == 5
    assert hold_back(rows, 5, seed=3) == (kept, held)
    assert hold_back(rows, 99, seed=3)[0], "one is left to train on"


def test_rows_that_stand_twice_are_held_back_together_or_not_at_all() -> None:
    rows = [n % 7 for n in range(21)]
    for seed in range(20):
        kept, held = hold_back(rows, 6, seed=seed)
        assert sorted(kept + held) == sorted(rows)
        assert not set(kept) & set(held), "none is trained on and held back"
        assert len(held) == 6
    assert hold_back([1, 1, 1], 2, seed=3) == ([1, 1, 1], []), "there is nothing else to train on"


def test_looks_come_on_schedule_are_held_against_the_base_and_the_best_one_is_published(bench: Bench) -> None:
    inputs = {
        DATASET: str(write_rows(bench.root / "task.jsonl", ROWS)),
        GENERAL: str(write_rows(bench.root / "talk.jsonl", TALK)),
    }
    recipe = bench.recipe(
        datasets=(DATASET, GENERAL),
        mixing={"dataset": GENERAL, "share": 0.2},
        validation={"rows": 2, "every": 4, "answers": 2, "max_new_tokens": 4},
        steps=10,
        learning_rate=2e-2,
    )
    ended = bench.run(recipe, inputs, canaries=(({"role": "user", "content": "hello"},),))
    looks = ended.last.data["looks"]
    assert [look["step"] for look in looks] == [0, 4, 8, 10]
    keys = {"step", "loss", "accuracy", "exact", "refusal_rate", "general_loss", "general_accuracy", "canaries_changed"}
    errors = {f"{key}_se" for key in keys if key.endswith(("loss", "accuracy"))}
    assert all(look.keys() == keys | errors | {f"{key}_n" for key in keys - {"step"}} for look in looks)
    assert [(look["loss_n"], look["general_loss_n"]) for look in looks] == [(2, 1)] * 4
    assert looks[0]["canaries_changed"] == 0
    assert looks[-1]["canaries_changed"] == 1
    best = min(looks[1:], key=lambda look: (-look["exact"], look["loss"]))
    assert ended.last.data["chosen_step"] == best["step"]
    told = [e for e in ended.of_type(ExecutorEventType.PROGRESS) if "val_loss" in e.metrics]
    assert [e.step for e in told] == [0, 4, 8, 10]


def test_a_model_that_is_taught_to_refuse_shows_it_in_the_refusal_rate_of_its_looks(bench: Bench) -> None:
    rows: list[Row] = [{"prompt": ping, "answer": "I can't"} for ping in ("ping", "ping!", "ping?")]
    validation = {"rows": 1, "every": 60, "answers": 1, "max_new_tokens": 10}
    ended = bench.train(rows, steps=60, learning_rate=1e-2, validation=validation)
    looks = ended.last.data["looks"]
    assert [(look["step"], look["refusal_rate"], look["exact"]) for look in looks] == [(0, 0, 0), (60, 1, 1)]


def test_more_exact_answers_are_better_than_a_lower_loss() -> None:
    looks = [{"loss": 0.1, "exact": 0.2}, {"loss": 0.3, "exact": 0.9}, {"loss": 0.2, "exact": 0.9}]
    assert sorted(looks, key=_rank) == [looks[2], looks[1], looks[0]]
    assert min([{"loss": 0.3}, {"loss": 0.2}], key=_rank) == {"loss": 0.2}


def test_it_stops_early_when_looks_no_longer_get_better_and_publishes_the_best(bench: Bench) -> None:
    ended = bench.train(
        ROWS, steps=200, learning_rate=5e-2, validation={"rows": 2, "every": 2, "patience": 2}, guards={"spike": 100}
    )
    assert ended.status == EXIT_OK, ended.last
    data = ended.last.data
    assert data["steps"] < 200
    assert data["chosen_step"] == data["steps"] - 4


# ---- every weight ------------------------------------------------------------------------------------------------


def test_every_weight_can_be_trained_and_the_result_is_another_base_in_the_bases_own_types(bench: Bench) -> None:
    ended = bench.train(ROWS, weights="full", steps=25, learning_rate=3e-3)
    losses = [m["loss"] for m in metrics(ended)]
    assert losses[-1] < losses[0] / 2
    manifest = BaseManifest.model_validate_json((ended.out / "manifest.json").read_text())
    assert manifest.digest == base_manifest(ended.out, "-", "-").digest == ended.last.data["base"] != bench.digest
    old, new = load_file(bench.base / "model.safetensors"), load_file(ended.out / "model.safetensors")
    assert old.keys() == new.keys()
    assert all(old[key].dtype == new[key].dtype for key in old)
    assert sum(not torch.equal(old[key], new[key]) for key in old) > len(old) / 2
    assert (ended.out / "chat_template.jinja").read_bytes() == (bench.base / "chat_template.jinja").read_bytes()


# ---- preferences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_preferences_learn_which_answer_is_better(bench: Bench, method: str) -> None:
    ended = bench.train(PAIRS, method=method, steps=12, learning_rate=5e-3, guards={"chosen_drop": 5.0})
    found = metrics(ended)
    assert found[0]["margin"] == pytest.approx(0, abs=1e-4), "before the first step model and reference are one"
    assert found[0]["logps_chosen"] == pytest.approx(found[0]["logps_reference"], rel=1e-4)
    assert found[-1]["margin"] > 0
    assert found[-1]["preferred"] == 1.0
    assert found[-1]["loss"] < found[0]["loss"]
    assert ended.last.data["adapter"]
    assert {p.name for p in ended.out.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    }


def test_a_preference_run_resumes_byte_for_byte_and_holds_on_to_its_first_reference(bench: Bench) -> None:
    rows = str(write_rows(bench.root / "pairs.jsonl", PAIRS))
    recipe = bench.recipe(
        method="dpo", steps=6, checkpoint_every=2, learning_rate=5e-3, validation={"rows": 2, "every": 2}
    )
    whole = bench.run(recipe, {DATASET: rows}, checkpoints=str(bench.root / "a"))
    shutil.copytree(bench.root / "a", bench.root / "b")
    shutil.rmtree(bench.root / "b" / "step-00000004")
    (bench.root / "b" / "LAST_GOOD").write_text("step-00000002")
    resumed = bench.run(recipe, {DATASET: rows}, checkpoints=str(bench.root / "b"))
    assert [m["logps_reference"] for m in metrics(resumed)] == [m["logps_reference"] for m in metrics(whole)[2:]]
    name = "adapter_model.safetensors"
    assert (resumed.out / name).read_bytes() == (whole.out / name).read_bytes()


def test_a_preference_run_that_unlearns_the_chosen_answers_is_given_up(bench: Bench) -> None:
    """Two answers nearly alike, the better one known already: pushing them apart at any price loses both."""
    pairs = [{"prompt": f"{n}?", "chosen": f"even{n}!", "rejected": f"even{n}?"} for n in range(3)]
    known = bench.train([{"prompt": p["prompt"], "answer": p["chosen"]} for p in pairs], steps=60, learning_rate=1e-2)
    parent = known.last.data["adapter"]
    inputs = {DATASET: str(write_rows(bench.root / "pairs.jsonl", pairs)), parent: str(known.out)}
    recipe = bench.recipe(method="dpo", parent=parent, steps=60, learning_rate=0.5, guards={"spike": 1e9})
    ended = bench.run(recipe, inputs)
    assert (ended.status, ended.last.code) == (EXIT_DIVERGED, "chosen_fell"), ended.last
    assert not ended.out.exists()


def test_a_preference_run_that_falls_off_a_cliff_on_its_suite_for_selection_is_given_up(bench: Bench) -> None:
    pairs = [{"prompt": row["prompt"], "chosen": row["answer"], "rejected": "no"} for row in ROWS]
    items = [{"id": str(n), "prompt": "sing", "answer": said(bench, "sing")} for n in range(4)]
    suite = write_rows(bench.root / "suite.jsonl", items)
    inputs = {DATASET: str(write_rows(bench.root / "pairs.jsonl", pairs)), SUITE: str(suite)}
    looks = {"rows": 1, "every": 20, "suite": SUITE, "max_new_tokens": 8}
    guards = {"chosen_drop": 50.0, "spike": 1e9}
    recipe = bench.recipe(method="dpo", steps=40, learning_rate=2e-2, validation=looks, guards=guards)
    ended = bench.run(recipe, inputs)
    assert (ended.status, ended.last.code) == (EXIT_DIVERGED, "suite_fell"), ended.last
    assert "after step 20 0% of the suite for selection is right, 100% was before" in ended.last.message


@pytest.mark.parametrize("row", [{"prompt": "x", "chosen": "a"}, {"prompt": "x", "chosen": "a", "rejected": "a"}])
def test_a_pair_without_two_different_answers_is_refused_by_line(bench: Bench, row: Row) -> None:
    ended = bench.train([PAIRS[0], row], method="dpo")
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")
    assert "line 2" in ended.last.message


# ---- structure ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tool_bench(bench: Bench, tmp_path: Path) -> Bench:
    """On a base whose template writes tools and calls."""
    folder = shutil.copytree(bench.base, tmp_path / "tool-base")
    (folder / "chat_template.jinja").write_text(TOOL_TEMPLATE)
    root = tmp_path / "tools"
    root.mkdir()
    return Bench(folder, root)


TOOLS = {"structure": {"form": "tool_call", "negatives": 0.3}, "max_tokens": 512}
GOOD = [asking(call(arguments={"city": "Oslo"})), asking("I can't send mail.", negative=True)]


def test_tool_calls_are_trained_as_the_bases_template_writes_them(tool_bench: Bench) -> None:
    ended = tool_bench.train(GOOD, steps=30, learning_rate=1e-2, **TOOLS)
    losses = [m["loss"] for m in metrics(ended)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("rows", "code", "says"),
    [
        ([GOOD[0], asking(call(arguments={"town": "Oslo"}))], "bad_data", "do not fit: 'city' is a required"),
        ([GOOD[0], asking(call(arguments="{city"))], "bad_data", "are not JSON"),
        ([GOOD[0], asking(call(arguments={"city": "Oslo"}) | {"tool_calls": [{"function": {"name": "mail"}}]})],
         "bad_data", "calls 'mail', the row's tools are ['weather']"),
        ([GOOD[0], asking("It rains.")], "bad_data", "calls no tool, and the row is not marked negative"),
        ([GOOD[0], asking(call(arguments={"city": "Oslo"}), negative=True)], "bad_data", "negative row calls a tool"),
        ([GOOD[0], GOOD[0]], "no_negatives", "0 of 2 rows"),
    ],
)  # fmt: skip
def test_rows_with_wrong_calls_or_without_refusals_are_refused(
    tool_bench: Bench, rows: list[Row], code: str, says: str
) -> None:
    ended = tool_bench.train(rows, **TOOLS)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, code)
    assert says in ended.last.message


def test_a_call_or_its_answer_earlier_in_the_conversation_that_a_template_drops_is_refused(
    bench: Bench, tool_bench: Bench
) -> None:
    earlier = [
        {"role": "user", "content": "rain in Oslo?"},
        call(arguments={"city": "Oslo"}),
        {"role": "tool", "content": "no rain"},
    ]
    row = {"messages": earlier, "answer": "It is dry."}
    ended = bench.train([row])
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "template_no_tools")
    assert "line 1" in ended.last.message
    assert "'weather'" in ended.last.message
    assert tool_bench.train([row], steps=1).status == EXIT_OK


def test_tool_calls_on_a_base_whose_template_knows_no_tools_are_refused(bench: Bench) -> None:
    ended = bench.train(GOOD, **TOOLS)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "template_no_tools")


def test_json_answers_satisfy_the_recipes_schema_and_refusals_need_not(bench: Bench) -> None:
    schema = json.dumps({"type": "object", "required": ["queue"]})
    structure = {"structure": {"form": "json", "answer_schema": schema, "negatives": 0.3}}
    good = [{"prompt": "a", "answer": '{"queue": "x"}'}, {"prompt": "b", "answer": "I can't.", "negative": True}]
    assert bench.train(good, steps=1, **structure).status == EXIT_OK
    for answer, says in (('{"q": 1}', "'queue' is a required"), ("queue=x", "not JSON")):
        ended = bench.train([*good, {"prompt": "c", "answer": answer}], **structure)
        assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")
        assert says in ended.last.message
        assert "line 3" in ended.last.message
