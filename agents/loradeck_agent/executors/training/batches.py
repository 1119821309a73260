"""Which rows make up which step. A function of the seed, so that a resumed run draws what the first would have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def batches(
    task: Sequence[T], size: int, seed: int, general: Sequence[T] = (), share: float = 0.0
) -> Iterator[list[T]]:
    """Endless batches; every task row once before any a second time, in an order that the seed gives.

    With general rows, so many join each round that they are `share` of all that is drawn; they too take turns.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = len(task) * share / (1 - share) if general else 0.0
    queue: list[T] = []
    waiting: list[T] = []
    owed = 0.0
    while True:
        while len(queue) < size:
            owed += wanted
            joining = int(owed)
            owed -= joining
            while len(waiting) < joining:
                waiting += [general[i] for i in _shuffled(len(general), generator)]
            drawn, waiting = [*task, *waiting[:joining]], waiting[joining:]
            queue += [drawn[i] for i in _shuffled(len(drawn), generator)]
        yield queue[:size]
        queue = queue[size:]


def _shuffled(count: int, generator: torch.Generator) -> list[int]:
    return list(map(int, torch.randperm(count, generator=generator)))
