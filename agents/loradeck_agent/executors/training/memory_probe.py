"""Memory before the first step: planned before weights are read, then probed. What does not fit fails at once."""

import resource
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from loradeck.artifacts.lora_config import LoraSettings
from loradeck.rules.serving.training_memory import BaseSize, TrainingMemory, training_memory
from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.training import Weights
from loradeck_agent.embedded.adapter_bank import linear_shapes
from loradeck_agent.executors.protocol import OutOfMemory
from loradeck_agent.executors.training.templates import Example

CGROUP = Path("/sys/fs/cgroup")


def check_plan(
    outline: Any, spec: TrainSpec, examples: Sequence[Example], available: int | None = None, *, world: int = 1
) -> TrainingMemory:
    """Checks that this process may have what a step needs at least, before any weight is read, and returns that.

    Args:
        outline: the base on torch's meta device.
        available: bytes that this process may still take; measured if None.
        world: processes over which a sharded base is divided.

    Raises: OutOfMemory: with what is needed for what.
    """
    config = outline.config.get_text_config()
    linear = linear_shapes(outline)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = BaseSize(
        values=sum(parameter.numel() for parameter in outline.parameters()),
        linear=sum(out * into for out, into in linear.values()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        kept=4 * config.hidden_size + 2 * heads * head + 2 * (getattr(config, "intermediate_size", 0) or 0),
        vocabulary=config.vocab_size,
    )
    adapter = sum(rank * sum(linear[module]) for module, rank in ranks_of(spec, linear).items())
    own = spec.batch // spec.pieces
    longest = sorted(examples, key=lambda example: len(example.ids), reverse=True)[:own]
    needed = training_memory(
        size,
        spec.precision,
        adapter=None if spec.weights is Weights.FULL else adapter,
        tokens=sum(len(example.ids) for example in longest),
        answer_tokens=sum(example.answer_tokens for example in longest),
        recomputed=spec.gradient_checkpointing,
        parts=world if spec.sharded else 1,
    )
    if available is None:
        available = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else memory_available()
    if needed.total > available:
        parts = {
            f"weights in {spec.precision}{f', a part of {world}' * (spec.sharded and world > 1)}": needed.weights,
            "what is trained, with gradients and moments": needed.states,
        }
        parts["the longest rows"] = needed.activations
        each = ", ".join(f"{what} {size / 1e9:,.2f}" for what, size in parts.items())
        raise OutOfMemory(
            f"a step needs at least {needed.total / 1e9:,.2f} GB ({each}), this process may have "
            f"{available / 1e9:,.2f} GB. Choose a node with more (--memory-gb), bf16 or nf4 (precision), "
            "gradient_checkpointing, more accumulation, shorter rows (max_tokens) or a lower rank"
        )
    return needed


def ranks_of(spec: TrainSpec, modules: Collection[str]) -> dict[str, int]:
    """The rank of the recipe's adapter in each of a base's linear layers that it changes, by name."""
    fields = {"r": spec.rank, "lora_alpha": spec.alpha, "target_modules": set(spec.target_modules)}
    lora = LoraSettings.model_validate(fields | {"rank_pattern": spec.rank_pattern})
    return {module: lora.of(module)[0] for module in modules if lora.changes(module)}


def probe(step: Callable[[], None], optimizer_bytes: int, available: int | None = None) -> dict[str, float]:
    """Runs one step on the longest rows, changing no weight, and measures its peak memory.

    Args:
        step: forward and backward on the longest rows; clears its gradients.
        optimizer_bytes: bytes that the optimiser will allocate at its first step.
        available: bytes that this process may still take before the step; measured if None.

    Returns:
        `peak_memory_bytes`, the process's peak with the optimiser, and `memory_bytes`, its limit.

    Raises: OutOfMemory: the peak is above the limit.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    else:
        held, free = psutil.Process().memory_info().rss, memory_available()
    limit = held + (free if available is None else available)
    step()
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_rss()
    needed = peak + optimizer_bytes
    if needed > limit:
        raise OutOfMemory(
            f"the longest batch needs {needed / 1e6:,.0f} MB at its peak, this process may have {limit / 1e6:,.0f} MB; "
            "use a smaller batch, more accumulation, shorter rows (max_tokens) or a lower rank"
        )
    return {"peak_memory_bytes": float(needed), "memory_bytes": float(limit)}


def peak_rss() -> int:
    """Peak resident memory of this process since its start, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_available() -> int:
    """Bytes that this process can still allocate: the host's, or what is left to its control group if that is less."""
    host = int(psutil.virtual_memory().available)
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return host
    return host if limit == "max" else min(host, max(0, int(limit) - used))
