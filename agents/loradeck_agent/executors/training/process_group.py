"""The processes of one run (one, or several started by torchrun) and the division of a step's rows between them.

Gradients are summed, not averaged: each process divides by the whole step's tokens, which all of them know because all
draw identical rows. So two processes compute the step that one would, but for the order of additions.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from loradeck_agent.executors.protocol import BadSpec

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run; `rank` is this one's number, `size` their count."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes results and checkpoints."""
        return self.rank == 0

    def share(self, rows: Sequence[T], pieces: int) -> list[tuple[int, Sequence[T]]]:
        """Returns this process's pieces of a step, with their numbers; the pieces are alike for any world."""
        return [(piece, rows[piece::pieces]) for piece in range(self.rank, pieces, self.size)]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums a tensor over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Tells whether the flag is set in any process; all get one answer."""
        if self.size == 1:
            return flag
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        return bool(self.sum(torch.tensor([float(flag)], device=device)).item() > 0)

    def same(self, value: int) -> bool:
        """Tells whether all processes have this value, which is from 0 up to 2 ** 62; all get one answer."""
        if self.size == 1:
            return True
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        ends = torch.tensor([value, -value], device=device)
        distributed.all_reduce(ends, distributed.ReduceOp.MAX)
        return bool(ends[0] == -ends[1])

    def wait(self) -> None:
        """Waits until all processes have arrived here."""
        if self.size > 1:
            distributed.barrier()


def own_device() -> torch.device | None:
    """The GPU of this process among those it may see; None on a host without one."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else None


@contextmanager
def joined(processes: int) -> Iterator[World]:
    """Joins the processes that torchrun started: gloo on a CPU, nccl on GPUs. Alone, it joins nothing.

    Raises: BadSpec: `bad_spec`: another number of processes was started than is told.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != processes:
        raise BadSpec(
            "bad_spec", f"the recipe is for {processes} processes, {size} were started (torchrun --nproc-per-node)"
        )
    if size == 1:
        yield World()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(own_device())  # what nccl, and "cuda" without a number, then mean in this process
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield World(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
