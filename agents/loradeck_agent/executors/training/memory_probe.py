"""One step at the longest batch before the first, so that what does not fit is known at once and not after an hour."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from loradeck_agent.executors.protocol import OutOfMemory

CGROUP = Path("/sys/fs/cgroup")


def probe(step: Callable[[], None], optimizer_bytes: int, available: int | None = None) -> dict[str, float]:
    """Runs a step that changes nothing and says what it took.

    Args:
        step: forward and backward on the longest rows; clears its gradients.
        optimizer_bytes: what the optimiser will keep from its first step on.
        available: bytes that this process may still take before the step; measured if None.

    Returns:
        `peak_memory_bytes`, the most this process held, the optimiser included, and `memory_bytes`, the most it may.

    Raises:
        OutOfMemory: it would not fit.
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
    """The most memory this process ever held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_available() -> int:
    """Bytes that can still be had here: what the host has, or what is left of this control group's limit."""
    host = int(psutil.virtual_memory().available)
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return host
    return host if limit == "max" else min(host, max(0, int(limit) - used))
