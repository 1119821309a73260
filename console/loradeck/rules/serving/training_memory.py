"""Memory that a training run needs at least, from a base's configuration, before any weight is read.

It is a lower bound: a recipe that does not fit by it fits on no node of that size. What a step really takes is probed
afterwards. Sizes are bytes.
"""

from dataclasses import dataclass

from loradeck.schemas.training import Precision

_STATES = 12
"""Bytes beside a trained fp32 value: its gradient and AdamW's two moments."""

_NF4 = 0.516
"""Bytes of a value in nf4 with double quantisation: 4 bits, 8 for each 64 values, 32 for each 16,384 (QLoRA, 2023)."""

_BYTES = {Precision.FP32: 4, Precision.BF16: 2, Precision.NF4: 2}
"""Bytes of a value that is not quantised; with nf4 these are embeddings, head and norms."""


@dataclass(frozen=True, kw_only=True)
class BaseSize:
    """The size of a base, counted in values.

    Attributes:
        linear: values in the linear layers of its decoder, which nf4 quantises.
        kept: values that one layer keeps of a token for the backward pass, at least.
    """

    values: int
    linear: int
    layers: int
    hidden: int
    kept: int
    vocabulary: int


@dataclass(frozen=True)
class TrainingMemory:
    """Memory that a step needs at least. `states`: trained values of an adapter, gradients and optimiser."""

    weights: int
    states: int
    activations: int

    @property
    def total(self) -> int:
        """All of it together."""
        return self.weights + self.states + self.activations


def training_memory(
    base: BaseSize,
    precision: Precision,
    *,
    adapter: int | None,
    tokens: int,
    answer_tokens: int,
    recomputed: bool,
    parts: int = 1,
) -> TrainingMemory:
    """Computes what a step needs at least.

    Args:
        adapter: values of the adapter that is trained, in fp32; None: every weight of the base is.
        tokens: tokens that a process holds at once.
        answer_tokens: those of them that have logits, in fp32, and their gradient.
        parts: of the base, one in each process.
        recomputed: activations are computed again in the backward pass: only each layer's input is kept.
    """
    item = _BYTES[precision]
    weights = base.values * item
    if precision is Precision.NF4:
        weights -= round(base.linear * (item - _NF4))
    states = base.values * _STATES if adapter is None else adapter * (4 + _STATES)
    kept = base.layers * base.hidden + base.kept if recomputed else base.layers * base.kept
    return TrainingMemory(weights // parts, states, tokens * kept * item + answer_tokens * base.vocabulary * 8)
