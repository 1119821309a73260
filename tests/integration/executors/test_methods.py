"""KTO, GRPO and distillation: what each teaches a random two-layer model, and its losses beside trl's."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.integration.executors.running import DATASET, Bench, Ended, Row, write_rows

from loradeck.artifacts import base_manifest
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK, EngineDoor, ExecutorEventType
from loradeck.schemas.training import AnswerForm, Distillation, DistilWay
from loradeck_agent.executors.base import read_base
from loradeck_agent.executors.protocol import Preempted
from loradeck_agent.executors.training import distillation
from loradeck_agent.executors.training.distillation import bucketed, divergence
from loradeck_agent.executors.training.objectives import advantages, balanced, kto_losses, policy_losses
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.verifiers import calls, reward, well_formed

VERDICTS: list[Row] = [
    {"prompt": f"{n} is?", "answer": f"{word} {n}", "good": word == "even"}
    for n in range(0, 12, 2)
    for word in ("even", "odd")
]
ROWS: list[Row] = [{"prompt": f"what is {n}?", "answer": f"it is {n * n}"} for n in range(6)]


def metrics(ended: Ended) -> list[dict[str, float]]:
    assert ended.status == EXIT_OK, ended.last
    return [e.metrics for e in ended.of_type(ExecutorEventType.PROGRESS) if "loss" in e.metrics]


# ---- KTO ---------------------------------------------------------------------------------------------------------


def test_kto_tells_good_answers_from_bad_ones(bench: Bench) -> None:
    found = metrics(bench.train(VERDICTS, method="kto", steps=16, batch=4, learning_rate=5e-3, beta=0.5))
    assert found[0]["loss"] == pytest.approx(0.5, abs=1e-4), "before the first step model and base are one"
    assert found[-1]["reward_good"] > found[-1]["reward_bad"]
    assert found[-1]["loss"] < found[0]["loss"]


def test_a_step_of_kto_is_the_same_however_it_is_cut_into_pieces(bench: Bench) -> None:
    runs = [
        metrics(bench.train(VERDICTS, method="kto", steps=4, batch=4, learning_rate=1e-2, accumulation=pieces))
        for pieces in (1, 2, 4)
    ]
    assert runs[0][-1]["kl"] > 0
    for run in runs[1:]:
        for key in ("loss", "kl", "reward_good", "told_apart"):
            assert [m[key] for m in run] == pytest.approx([m[key] for m in runs[0]], rel=1e-3, abs=1e-5)


def test_a_row_without_a_verdict_is_refused_by_line(bench: Bench) -> None:
    ended = bench.train([VERDICTS[0], {"prompt": "1 is?", "answer": "odd"}], method="kto")
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")
    assert "line 2: needs good" in ended.last.message


def test_the_rarer_verdict_weighs_as_much_as_the_other() -> None:
    assert balanced(10, 10) == (1.0, 1.0)
    assert balanced(5, 20) == (4.0, 1.0)
    assert balanced(20, 5) == (1.0, 4.0)


def test_kto_is_trls() -> None:
    from trl import KTOTrainer

    torch.manual_seed(0)
    own, base, mixed, base_mixed = (-3 * torch.rand(6, 4) for _ in range(4))
    good = torch.tensor([True, False, True, True, False, False])
    passed = SimpleNamespace(log_probs=own, entropy=own, mean_logits=own)
    trainer: Any = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda value: value),
        _compute_kl_logps=lambda model, batch: mixed.sum(-1),
        precompute_ref_logps=True,
        calculate_KL=True,
        loss_type="kto",
        beta=0.3,
        desirable_weight=1.5,
        undesirable_weight=1.0,
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "label": good,
        "input_ids": torch.ones(6, 5, dtype=torch.long),
        "attention_mask": torch.ones(6, 5),
        "completion_mask": torch.ones(6, 5),
        "ref_logps": base.sum(-1),
        "ref_KL_logps": base_mixed.sum(-1),
    }
    theirs = KTOTrainer._compute_loss(trainer, lambda **_: passed, inputs, False)
    drift = max(0.0, float((mixed.sum(-1) - base_mixed.sum(-1)).mean()))
    ours = kto_losses(own.sum(-1) - base.sum(-1), good, drift, 0.3, (1.5, 1.0)).mean()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


# ---- GRPO --------------------------------------------------------------------------------------------------------


def test_grpo_makes_rewarded_answers_likelier(bench: Bench) -> None:
    """The base answers anything; the reward is for JSON, which a first run has taught a little."""
    rows: list[Row] = [{"prompt": ask, "answer": "{}"} for ask in ("ping", "pong", "bang")]
    start = bench.train(rows, steps=14, batch=3, learning_rate=1e-2)
    parent = start.last.data["adapter"]
    recipe = bench.recipe(
        method="grpo",
        parent=parent,
        steps=12,
        batch=3,
        learning_rate=5e-3,
        sampling={"group": 8, "max_new_tokens": 4},
        structure={"form": "json", "negatives": 0},
        validation={"rows": 1, "every": 12},
    )
    inputs = {DATASET: str(write_rows(bench.root / "asked.jsonl", rows)), parent: str(start.out)}
    ended = bench.run(recipe, inputs)
    found = metrics(ended)
    early, late = (sum(m["reward"] for m in part) / len(part) for part in (found[:3], found[-3:]))
    assert late > early
    again = metrics(bench.run(recipe, inputs))
    assert [m["reward"] for m in again] == [m["reward"] for m in found], "what is drawn is of the seed and the step"


def test_advantages_are_of_a_group_and_the_loss_is_trls() -> None:
    from trl import GRPOTrainer

    torch.manual_seed(0)
    logps, base = (-3 * torch.rand(4, 5) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    gains = advantages(torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
    assert gains.tolist() == [[0.5, -0.5], [-0.25, 0.25]]
    logps.requires_grad_(True)
    trainer: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, logps.detach(), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.1,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        loss_type="dr_grpo",
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        max_completion_length=5,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        accelerator=SimpleNamespace(reduce=lambda value, reduction: value, gather=lambda value: value),
        _metrics={"train": defaultdict(list)},
    )
    inputs = {
        "prompt_ids": torch.ones(4, 2, dtype=torch.long),
        "prompt_mask": torch.ones(4, 2, dtype=torch.long),
        "completion_ids": torch.ones(4, 5, dtype=torch.long),
        "completion_mask": mask,
        "advantages": gains.reshape(-1),
        "ref_per_token_logps": base,
    }
    theirs = GRPOTrainer._compute_loss(trainer, None, inputs)
    (their_slope,) = torch.autograd.grad(theirs, logps)
    places = mask.nonzero()
    chosen = logps[places[:, 0], places[:, 1]]
    ours = policy_losses(chosen, gains.reshape(-1)[places[:, 0]], base[places[:, 0], places[:, 1]], 0.1).sum() / (4 * 5)
    (our_slope,) = torch.autograd.grad(ours, logps)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    assert torch.allclose(our_slope, their_slope, atol=1e-7)


SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("form", "wanted", "answer", "earned"),
    [
        (AnswerForm.TEXT, "yes", " yes ", 1.0),
        (AnswerForm.TEXT, "yes", "Yes", 0.0),
        (AnswerForm.JSON, '{"city": "Oslo", "n": 1}', '{"n": 1, "city": "Oslo"}', 1.0),
        (AnswerForm.JSON, '{"city": "Oslo", "n": 1}', '{"city": "Oslo", "n": 2}', 0.6),
        (AnswerForm.JSON, '{"city": "Oslo", "n": 1}', '{"city": "Oslo", "n": true}', 0.1),
        (AnswerForm.JSON, '{"city": "Oslo"}', '{"town": "Oslo"}', 0.1),
        (AnswerForm.JSON, '{"city": "Oslo"}', 'It is {"city": "Oslo"}', 0.0),
        (AnswerForm.JSON, '{"city": "Oslo"}', "[" * 100_000, 0.0),
        (AnswerForm.JSON, "I cannot.", "No, I will not.", 1.0),
        (AnswerForm.JSON, "I cannot.", '{"city": "Oslo"}', 0.0),
        (AnswerForm.JSON, "I cannot.", " ", 0.0),
        (
            AnswerForm.TOOL_CALL,
            '<c>{"name": "rain", "arguments": {"at": "Oslo"}}</c>',
            '{"name": "rain", "arguments": {"at": "Oslo"}}',
            1.0,
        ),
        (
            AnswerForm.TOOL_CALL,
            '{"name": "rain", "arguments": {"at": "Oslo"}}',
            '{"name": "rain", "parameters": {"at": "Rome"}}',
            0.2,
        ),
        (AnswerForm.TOOL_CALL, '{"name": "rain", "arguments": {}}', '{"name": "snow", "arguments": {}}', 0.0),
        (AnswerForm.TOOL_CALL, '{"name": "rain", "arguments": {}}', '{"name": "rain", "arguments": {}} ' * 2, 0.5),
        (AnswerForm.TOOL_CALL, "Nothing to call.", "I call nothing {}", 1.0),
        (AnswerForm.TOOL_CALL, "Nothing to call.", '{"name": "rain", "arguments": {}}', 0.0),
    ],
)
def test_an_answer_earns_what_it_has_right(form: AnswerForm, wanted: str, answer: str, earned: float) -> None:
    schema = SCHEMA if form is AnswerForm.JSON else None
    assert reward(form, schema, wanted, answer) == pytest.approx(earned)


def test_calls_are_read_as_templates_write_them() -> None:
    assert calls('x {"function": {"name": "a", "arguments": "{\\"b\\": 1}"}} {broken {"name": "c"}') == [
        ("a", {"b": 1}),
        ("c", {}),
    ]


# ---- distillation ------------------------------------------------------------------------------------------------


@pytest.fixture
def teacher(bench: Bench) -> Path:
    """A base that knows the rows: every weight was trained on them."""
    ended = bench.train(ROWS, weights="full", steps=40, batch=6, learning_rate=5e-3)
    assert ended.status == EXIT_OK, ended.last
    return ended.out


def distilled(bench: Bench, teacher: Path, rows: list[Row], door: EngineDoor | None = None, **changes: Any) -> Ended:
    digest = base_manifest(teacher, "-", "-").digest
    settings = {"teacher": digest, "licence": "Apache-2.0", **changes.pop("distillation", {})}
    recipe = bench.recipe(method="distil", batch=6, learning_rate=1e-2, distillation=settings, **changes)
    inputs = {DATASET: str(write_rows(bench.root / "asked.jsonl", rows)), digest: str(teacher)}
    return bench.run(recipe, inputs, teacher=door)


def test_a_student_comes_to_say_what_its_teacher_says(bench: Bench, teacher: Path) -> None:
    found = metrics(distilled(bench, teacher, ROWS, steps=30))
    assert found[-1]["loss"] < found[0]["loss"] / 2
    assert found[-1]["token_accuracy"] > found[0]["token_accuracy"]


def test_a_student_learns_its_teachers_answers_where_rows_have_others(bench: Bench, teacher: Path) -> None:
    rows = [{**row, "answer": "-"} for row in ROWS]
    settings = {"way": "sequence", "max_new_tokens": 16}
    ended = distilled(bench, teacher, rows + rows[:2], steps=2, distillation=settings)
    assert ended.status == EXIT_OK, ended.last
    (told,) = [e for e in ended.events if "teacher_answers" in e.metrics]
    assert told.metrics["teacher_answers"] > 0
    assert "of 8 rows; 2 asked what others ask, 0 answers have another form" in told.message
    assert metrics(ended)[0]["loss"] > 1


def test_a_teachers_answers_that_have_not_the_recipes_form_are_left_out(bench: Bench, teacher: Path) -> None:
    rows = [{**row, "answer": "{}"} for row in ROWS]
    form = {"form": "json", "negatives": 0}
    settings = {"way": "sequence", "max_new_tokens": 16}
    ended = distilled(bench, teacher, rows, distillation=settings, structure=form)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_data")
    assert "in the recipe's form (6 have another)" in ended.last.message


@pytest.mark.parametrize(
    ("form", "wanted", "answer", "fits"),
    [
        (AnswerForm.TEXT, "yes", "no", True),
        (AnswerForm.TEXT, "yes", " ", False),
        (AnswerForm.JSON, '{"city": "Oslo"}', '{"city": "Rome", "n": 2}', True),
        (AnswerForm.JSON, '{"city": "Oslo"}', '{"town": "Rome"}', False),
        (AnswerForm.JSON, '{"city": "Oslo"}', "Rome", False),
        (AnswerForm.JSON, "I cannot.", "No.", True),
        (AnswerForm.JSON, "I cannot.", '{"city": "Rome"}', False),
        (AnswerForm.TOOL_CALL, '{"name": "rain", "arguments": {}}', '{"name": "snow", "arguments": {}}', True),
        (AnswerForm.TOOL_CALL, '{"name": "rain", "arguments": {}}', "It rains.", False),
        (AnswerForm.TOOL_CALL, "Nothing to call.", '{"name": "rain", "arguments": {}}', False),
    ],
)
def test_an_answer_has_the_form_of_the_rows_own_whatever_it_says(
    form: AnswerForm, wanted: str, answer: str, fits: bool
) -> None:
    assert well_formed(form, SCHEMA if form is AnswerForm.JSON else None, wanted, answer) is fits


@pytest.mark.parametrize("way", ["logits", "top"])
def test_a_teacher_whose_tokens_are_others_is_refused(bench: Bench, teacher: Path, way: str) -> None:
    path = teacher / "tokenizer.json"
    path.write_text(path.read_text().replace('"<|im_start|>"', '"<|IM_START|>"'))
    ended = distilled(bench, teacher, ROWS, distillation={"way": way})
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "foreign_tokenizer")


def test_a_student_learns_of_a_served_teacher_what_its_engine_finds_likely(bench: Bench, teacher: Path) -> None:
    model, asked = read_base(teacher).model.eval(), []

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question)
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor([question["prompt"]])).logits[0], -1)[:-1]
        top = logs[-question["last"] :].topk(question["top"])
        pairs = [list(zip(*each, strict=True)) for each in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
        return {"top": pairs, "ms": 1.0}

    build = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")
    rows = ROWS + ROWS[:1]
    with bench.door(answer, build, scores=True) as door:
        served = metrics(distilled(bench, teacher, rows, door, steps=30, distillation={"way": "top", "top": 8}))
    assert len(asked) == len(ROWS), "a row that stands twice is asked about once"
    assert served[-1]["loss"] < served[0]["loss"] / 2
    whole = metrics(distilled(bench, teacher, rows, steps=30))
    for ours, theirs in zip(served, whole, strict=True):
        assert 0 <= ours["loss"] <= theirs["loss"] + 0.05, "of fewer buckets it is a lower bound"
    assert served[-1]["token_accuracy"] > whole[0]["token_accuracy"]
    silent = distilled(bench, teacher, ROWS, door.model_copy(update={"scores": False}), distillation={"way": "top"})
    assert (silent.status, silent.last.code) == (EXIT_BAD_SPEC, "bad_spec")
    assert "serve it by vLLM on a GPU" in silent.last.message


def test_another_attempt_asks_the_teacher_only_about_rows_that_it_has_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "FILE_ROWS", 2)
    rows = [Example([n, n + 1, n + 2], 1) for n in range(5)]
    settings = Distillation(teacher="c" * 64, licence="MIT", way=DistilWay.TOP, top=2)

    class Teacher:
        door = SimpleNamespace(scores=True)

        def __init__(self, stops_after: int) -> None:
            self.asked: list[tuple[int, ...]] = []
            self.stops_after = stops_after

        def each(self, questions: list[Any], beat: Any) -> Iterator[tuple[int, Any]]:
            for number, question in enumerate(questions):
                if number == self.stops_after:
                    raise Preempted
                self.asked.append(question.prompt)
                first = float(-question.prompt[0])
                yield number, SimpleNamespace(top=[[(1, first), (2, -9.0)], [(3, first), (4, -9.0)]])

    def asks(teacher: Any) -> Any:
        current: Any = SimpleNamespace(phase=lambda text: None, check=None)
        return distillation.ask_teacher(current, teacher, rows, settings, tmp_path)

    first, second, third = Teacher(3), Teacher(9), Teacher(9)
    with pytest.raises(Preempted):
        asks(first)
    assert len(first.asked) == 3
    said = asks(second)
    assert second.asked == [tuple(row.ids) for row in rows[3:]]
    for row in rows:
        assert said[row].ids.tolist() == [[1, 2], [3, 4]]
        assert said[row].logs.tolist() == [[-row.ids[0], -9.0]] * 2
    damaged = min(tmp_path.rglob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:20])
    asks(third)
    assert 1 <= len(third.asked) <= 2, "what one damaged file had"


def test_the_rest_is_a_bucket_of_its_own_and_with_all_tokens_the_divergence_is_the_whole_one() -> None:
    torch.manual_seed(0)
    student, teacher = (torch.log_softmax(torch.randn(5, 12), -1) for _ in range(2))
    order = teacher.argsort(-1, descending=True)
    for beta in (0.0, 0.5, 1.0):
        whole, found = divergence(student, teacher, beta), []
        for top in (1, 4, 11):
            ids = order[:, :top]
            found.append(divergence(bucketed(student.gather(1, ids)), bucketed(teacher.gather(1, ids)), beta))
        assert torch.allclose(found[-1], whole, atol=1e-5), "eleven and the rest are all twelve"
        assert bool((found[0] <= found[1] + 1e-6).all())
        assert bool((found[1] <= whole + 1e-6).all())
    assert torch.isfinite(divergence(bucketed(torch.tensor([[0.0]])), bucketed(torch.tensor([[0.0]])), 0.5)).all()


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_the_divergence_is_trls(beta: float) -> None:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    torch.manual_seed(0)
    student, teacher = torch.randn(1, 7, 8), torch.randn(1, 7, 8)
    heads = torch.randn(11, 8), torch.randn(11, 8)
    mask = torch.ones(1, 7)
    theirs, _, _ = _chunked_divergence_loss(student, teacher, *heads, mask, beta, temperature=2.0)
    ours = divergence(student[0] @ heads[0].T / 2, teacher[0] @ heads[1].T / 2, beta).mean()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)
    assert math.isclose(float(divergence(student[0], student[0], beta).sum()), 0, abs_tol=1e-5)
