"""The order in which rows are drawn into steps: a function of the seed, so that a resumed run draws alike."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def batches(
    task: Sequence[T], size: int, seed: int, general: Sequence[T] = (), share: float = 0.0
) -> Iterator[list[T]]:
    """Yields batches of `size` rows for ever; every task row is drawn once before any is drawn again.

    General rows are mixed in so that they make up `share` of all rows drawn; they take turns too.
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
