"""The processes of one run: alone, or started by torchrun, each with its share of every step's rows.

Gradients are summed, not averaged: each process divides by the whole step's tokens, which all of them know because
all draw the same rows. So two processes compute the step that one would, but for the order of additions.
"""

from __future__ import annotations

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
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, rows: Sequence[T], pieces: int) -> list[Sequence[T]]:
        """This process's rows of a step, in pieces."""
        own = rows[self.rank :: self.size]
        return [own[piece::pieces] for piece in range(pieces)]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all get the same answer."""
        if self.size == 1:
            return flag
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        return bool(self.sum(torch.tensor([float(flag)], device=device)).item() > 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def joined(processes: int) -> Iterator[World]:
    """The processes that were started together; gloo on a CPU, nccl on GPUs.

    Raises:
        BadSpec: `bad_spec`, there are not as many as the recipe says.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != processes:
        raise BadSpec(
            "bad_spec", f"the recipe is for {processes} processes, {size} were started (torchrun --nproc-per-node)"
        )
    if size == 1:
        yield World()
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield World(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
