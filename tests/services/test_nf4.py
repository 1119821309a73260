"""Training on a base in four bits, with bitsandbytes on the CPU. It is here because its import takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.integration.executors.running import Bench, Row

from loradeck.schemas.executor import EXIT_OK, ExecutorEventType
from loradeck.schemas.training import Precision
from loradeck_agent.embedded.adapter_bank import linear_shapes
from loradeck_agent.executors.base import read_weights

pytestmark = pytest.mark.drawn(seconds=3)

pytest.importorskip("bitsandbytes", reason="an environment from before the extra nf4: make setup")

ROWS: list[Row] = [{"prompt": f"what is {n}?", "answer": f"it is {n * n}"} for n in range(6)]


def test_an_adapter_is_trained_on_a_base_in_four_bits(tiny_base: Path, tmp_path: Path) -> None:
    bench = Bench(tiny_base, tmp_path)
    settings = {"steps": 12, "batch": 6, "learning_rate": 1e-2, "gradient_checkpointing": True}
    ended = bench.train(ROWS, precision="nf4", **settings)
    assert ended.status == EXIT_OK, ended.last
    losses = [e.metrics["loss"] for e in ended.of_type(ExecutorEventType.PROGRESS) if "loss" in e.metrics]
    assert losses[-1] < losses[0] * 0.9
    assert {value.dtype for value in load_file(ended.out / "adapter_model.safetensors").values()} == {torch.float32}
    assert (ended.out / "adapter_model.safetensors").read_bytes() == (
        bench.train(ROWS, precision="nf4", **settings).out / "adapter_model.safetensors"
    ).read_bytes(), "the same recipe gives the same bytes"


def test_the_linear_layers_are_quantised_and_keep_their_shapes(tiny_base: Path) -> None:
    plain, quantised = read_weights(tiny_base), read_weights(tiny_base, Precision.NF4)
    assert linear_shapes(quantised) == linear_shapes(plain)
    layer = quantised.model.layers[0].mlp.up_proj
    assert layer.weight.dtype is torch.uint8
    assert layer.weight.numel() < plain.model.layers[0].mlp.up_proj.weight.numel()
