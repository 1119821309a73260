"""Precision, gradient checkpointing and packing of a run, and the memory that is planned for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.integration.executors.running import Bench, Ended, Row
from transformers import AutoConfig, AutoModelForCausalLM

from loradeck.schemas.executor import EXIT_BAD_SPEC, EXIT_OK, EXIT_OUT_OF_MEMORY, ExecutorEventType, ExecutorSpec
from loradeck.schemas.training import Precision
from loradeck_agent.executors import base as bases
from loradeck_agent.executors.base import outlined, read_weights
from loradeck_agent.executors.protocol import BadSpec
from loradeck_agent.executors.training import memory_probe
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.trained import AnswerReader, Trained

ROWS: list[Row] = [{"prompt": f"what is {n}?", "answer": f"it is {n * n}"} for n in range(6)]


def weights(ended: Ended) -> dict[str, torch.Tensor]:
    assert ended.status == EXIT_OK, ended.last
    return load_file(ended.out / "adapter_model.safetensors")


def losses(ended: Ended) -> list[float]:
    assert ended.status == EXIT_OK, ended.last
    return [e.metrics["loss"] for e in ended.of_type(ExecutorEventType.PROGRESS) if "loss" in e.metrics]


def test_a_base_in_bf16_is_learnt_on_as_one_in_fp32_is_by_an_adapter_that_stays_fp32(bench: Bench) -> None:
    runs = {
        precision: bench.train(ROWS, steps=8, learning_rate=1e-2, precision=precision) for precision in ("fp32", "bf16")
    }
    assert losses(runs["bf16"]) == pytest.approx(losses(runs["fp32"]), rel=0.03)
    assert losses(runs["bf16"])[-1] < losses(runs["bf16"])[0]
    assert {value.dtype for value in weights(runs["bf16"]).values()} == {torch.float32}
    assert read_weights(bench.base, Precision.BF16).dtype is torch.bfloat16


def test_activations_that_are_computed_again_give_the_same_bytes(bench: Bench) -> None:
    settings = {"steps": 4, "learning_rate": 1e-2, "dropout": 0.2, "validation": {"rows": 1, "every": 2, "answers": 1}}
    plain = weights(bench.train(ROWS, **settings))
    again = weights(bench.train(ROWS, gradient_checkpointing=True, **settings))
    assert all(torch.equal(plain[key], again[key]) for key in plain)


def test_packed_rows_are_trained_as_padded_ones_are(bench: Bench) -> None:
    rows = [*ROWS, {"prompt": "and a much longer question?", "answer": "short"}]
    padded, packed = (bench.train(rows, steps=4, batch=4, learning_rate=1e-2, packing=on) for on in (False, True))
    assert losses(packed) == pytest.approx(losses(padded), rel=1e-4)
    assert weights(packed).keys() == weights(padded).keys()


def test_a_base_that_mixes_packed_rows_is_not_packed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = AnswerReader.hidden
    monkeypatch.setattr(AnswerReader, "hidden", lambda reader, batch: hidden(reader, batch).cumsum(1))
    ended = bench.train(ROWS, packing=True)
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_spec")
    assert "leave packing out" in ended.last.message


def test_what_cannot_fit_is_refused_with_figures_before_weights_are_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_probe, "memory_available", lambda: 100_000)
    monkeypatch.setattr(bases, "read_weights", None)
    monkeypatch.setattr("loradeck_agent.executors.train.read_weights", None)
    ended = bench.train(ROWS)
    assert (ended.status, ended.last.code) == (EXIT_OUT_OF_MEMORY, "out_of_memory")
    assert "a step needs at least" in ended.last.message
    assert "this process may have 0.00 GB" in ended.last.message
    assert ended.of_type(ExecutorEventType.PROGRESS) == []


def test_the_plan_is_below_what_a_step_takes(bench: Bench) -> None:
    """A plan that says too much would refuse what fits."""
    recipe = bench.recipe(weights="full", steps=1)
    folder = bench.write(recipe, {})
    outline = outlined(ExecutorSpec.model_validate_json((folder / "spec.json").read_bytes())).model
    assert next(outline.parameters()).is_meta
    model = read_weights(bench.base)
    assert {n: p.shape for n, p in outline.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    values = sum(parameter.numel() for parameter in model.parameters())
    memory_probe.check_plan(outline, recipe, [], available=values * 16)
    with pytest.raises(memory_probe.OutOfMemory):
        memory_probe.check_plan(outline, recipe, [], available=values * 16 - 1)


def test_nf4_without_its_library_is_refused_with_what_to_install(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases.transformers.utils, "is_bitsandbytes_available", lambda: False)
    ended = bench.train(ROWS, precision="nf4")
    assert (ended.status, ended.last.code) == (EXIT_BAD_SPEC, "bad_spec")
    assert "pip install 'loradeck[nf4]'" in ended.last.message


def headed(family: str, **more: Any) -> AnswerReader:
    size = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **size, **heads, **more)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(100)
    return AnswerReader(Trained(model, dict(model.named_parameters()), None, {}), 0)


@pytest.mark.parametrize(
    ("family", "more"),
    [("llama", {}), ("gemma2", {"final_logit_softcapping": 5.0}), ("granite", {"logits_scaling": 8.0}), ("cohere", {})],
)
def test_logits_are_those_of_the_models_own_forward_scaled_or_capped(family: str, more: dict[str, float]) -> None:
    reader, row = headed(family, **more), Example(list(range(1, 12)), 4)
    with torch.no_grad():
        own = reader.trained.causal(torch.tensor([row.ids])).logits[0, 3:-1]
        assert torch.allclose(reader.logits(reader.batch([row])), own, atol=1e-4)
    reader.check_logits(row)


def test_a_base_that_does_something_else_to_its_logits_is_refused() -> None:
    reader = headed("granite", logits_scaling=8.0)
    reader.trained.causal.config.logits_scaling = 1.0
    own = reader.trained.causal.forward

    def doubled(*args: Any, **given: Any) -> Any:
        found = own(*args, **given)
        found.logits = found.logits * 2
        return found

    reader.trained.causal.forward = doubled
    with pytest.raises(BadSpec, match="changes its logits"):
        reader.check_logits(Example(list(range(1, 12)), 4))
