"""A probe of memory before the first step, so that a recipe that does not fit fails at once and not after an hour."""

import resource
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from loradeck_agent.executors.protocol import OutOfMemory

CGROUP = Path("/sys/fs/cgroup")


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
