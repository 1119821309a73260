"""The memory that a training run needs at least."""

from __future__ import annotations

import pytest

from loradeck.rules.serving.training_memory import BaseSize, training_memory
from loradeck.schemas.training import Precision

LLAMA_8B = BaseSize(
    values=8_030_261_248,
    linear=6_979_321_856,
    layers=32,
    hidden=4096,
    kept=4 * 4096 + 2 * 1024 + 2 * 14336,
    vocabulary=128_256,
)
ADAPTER = 41_943_040  # rank 16 on all linear layers


@pytest.mark.parametrize(
    ("precision", "gigabytes"), [(Precision.FP32, 32.1), (Precision.BF16, 16.1), (Precision.NF4, 5.7)]
)
def test_weights_take_what_their_precision_says(precision: str, gigabytes: float) -> None:
    found = training_memory(
        LLAMA_8B, Precision(precision), adapter=ADAPTER, tokens=0, answer_tokens=0, recomputed=False
    )
    assert found.weights / 1e9 == pytest.approx(gigabytes, abs=0.05)
    assert found.states == ADAPTER * 16


def test_every_weight_has_a_gradient_and_two_moments() -> None:
    found = training_memory(LLAMA_8B, Precision.FP32, adapter=None, tokens=0, answer_tokens=0, recomputed=False)
    assert found.total == LLAMA_8B.values * 16


def test_what_is_computed_again_is_not_kept() -> None:
    kept, recomputed = (
        training_memory(LLAMA_8B, Precision.BF16, adapter=1, tokens=8192, answer_tokens=100, recomputed=on).activations
        for on in (False, True)
    )
    assert kept > 5 * recomputed
    assert recomputed > 8192 * 32 * 4096 * 2 + 100 * 128_256 * 8
