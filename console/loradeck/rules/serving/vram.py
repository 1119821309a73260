"""Memory planning: how many adapters fit on an engine, from the shapes of its base.

vLLM reserves memory for `max_loras` adapters of `max_lora_rank` when it starts, whatever their own ranks are; the
embedded engine allocates what each adapter needs when it is loaded. Sizes are bytes; `shapes` are (out, in) of every
linear layer that adapters target.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Rank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]

RANKS: tuple[Rank, ...] = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for `max_lora_rank`."""

UTILISATION = 0.9
"""Share of a GPU that vLLM takes: its default of `--gpu-memory-utilization`."""

_ROW_PARALLEL = frozenset({"o_proj", "down_proj"})
"""Layers whose inputs tensor parallelism divides; of all others it divides the outputs."""

_KEYS = frozenset({"k_proj", "v_proj"})

Shapes = Mapping[str, tuple[int, int]]
"""Layer name -> (out, in)."""


def targeted(shapes: Shapes, targets: Collection[str]) -> Shapes:
    """The layers that adapters with these target modules change; all of them if none are named."""
    return {
        name: shape
        for name, shape in shapes.items()
        if not targets or name in targets or name.rpartition(".")[2] in targets
    }


def rank_bytes(shapes: Shapes, item: int) -> int:
    """Bytes that one rank of an adapter takes: a row of A and a column of B in each layer. `item`: bytes of a value."""
    return sum(out + into for out, into in shapes.values()) * item


def vllm_bytes(
    shapes: Shapes,
    item: int,
    *,
    max_loras: int,
    max_rank: int,
    parallel: int = 1,
    whole: Shapes | None = None,
    head: int = 0,
) -> int:
    """Bytes that vLLM reserves on each GPU for `max_loras` adapters of `max_lora_rank`.

    Without `--fully-sharded-loras` tensor parallelism divides half of each pair: B of layers whose outputs are divided,
    and A of those whose inputs are (vllm/lora/layers/column_parallel_linear.py and row_parallel_linear.py of 0.32).

    Args:
        parallel: GPUs over which a layer is divided.
        whole: layers that are laid out on each GPU undivided: the embedding and the head.
        head: values of a key head. Where there are fewer of them than GPUs, each GPU has one all the same.
    """
    a_rank = sum(out + into for out, into in (whole or {}).values())
    for name, (out, into) in shapes.items():
        last = name.rpartition(".")[2]
        if last in _ROW_PARALLEL:
            a_rank += into // parallel + out
        else:
            a_rank += into + max(out // parallel, head if last in _KEYS else 0)
    return max_loras * max_rank * a_rank * item


def embedded_bytes(shapes: Shapes, item: int, ranks: Iterable[int]) -> int:
    """Bytes that the embedded engine holds with adapters of these ranks resident.

    It is twice their size: each adapter's own matrices, and those of all of them stacked along their ranks.
    """
    return 2 * sum(ranks) * rank_bytes(shapes, item)


def token_bytes(layers: int, key_heads: int, head: int, item: int) -> int:
    """Bytes that one token takes in the key-value cache: a key and a value for each head of each layer."""
    return 2 * layers * key_heads * head * item


@dataclass(frozen=True, kw_only=True)
class Room:
    """Memory of an engine on one device, in bytes. `cache`: memory of the key-value cache."""

    total: float
    weights: float
    cache: float
    share: float = UTILISATION

    @property
    def for_adapters(self) -> float:
        """Bytes left for adapters beside base and cache; never below 0."""
        return max(0.0, self.total * self.share - self.weights - self.cache)


def slots(room: Room, one: int) -> int:
    """Number of adapters of `one` bytes each that fit."""
    return int(room.for_adapters // one) if one else 0
