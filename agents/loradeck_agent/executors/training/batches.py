"""The order in which rows are drawn into steps: a function of the seed, so that a resumed run draws alike."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import TypeVar

import torch

T = TypeVar("T")


def _alike(row: object) -> float:
    return 1.0


def batches(
    task: Sequence[T],
    size: int,
    seed: int,
    general: Sequence[T] = (),
    share: float = 0.0,
    weight: Callable[[T], float] = _alike,
) -> Iterator[list[T]]:
    """Yields batches of `size` rows for ever, pass by pass over the task rows.

    A row of weight 1 is drawn once in each pass, one of weight 2 twice, one of weight 1/4 in every fourth: rows of one
    weight take turns. General rows are mixed in so that they make up `share` of all rows drawn; they take turns too,
    by their weights among each other.
    """
    generator = torch.Generator().manual_seed(seed)
    passes, others = _passes(task, weight, generator), _passes(general, weight, generator)
    wanted = sum(map(weight, task)) * share / (1 - share) if general else 0.0
    queue: list[T] = []
    waiting: list[T] = []
    owed = 0.0
    while True:
        while len(queue) < size:
            owed += wanted
            joining = int(owed)
            owed -= joining
            while len(waiting) < joining:
                more = next(others)
                waiting += [more[i] for i in _shuffled(len(more), generator)]
            drawn, waiting = [*next(passes), *waiting[:joining]], waiting[joining:]
            queue += [drawn[i] for i in _shuffled(len(drawn), generator)]
        yield queue[:size]
        queue = queue[size:]


def _passes(rows: Sequence[T], weight: Callable[[T], float], generator: torch.Generator) -> Iterator[list[T]]:
    """Yields the rows of each pass for ever. Of a weight's fraction is owed what a pass could not draw."""
    kinds: dict[Fraction, list[T]] = defaultdict(list)
    for row in rows:
        kinds[Fraction(weight(row)).limit_denominator(1000)].append(row)
    owed, waiting = dict.fromkeys(kinds, Fraction()), {kind: list[T]() for kind in kinds}
    while True:
        drawn = list[T]()
        for kind, of_kind in kinds.items():
            drawn += of_kind * int(kind)
            owed[kind] += len(of_kind) * (kind % 1)
            joining = int(owed[kind])
            owed[kind] -= joining
            while len(waiting[kind]) < joining:
                waiting[kind] += [of_kind[i] for i in _shuffled(len(of_kind), generator)]
            drawn += waiting[kind][:joining]
            del waiting[kind][:joining]
        yield drawn


def _shuffled(count: int, generator: torch.Generator) -> list[int]:
    return list(map(int, torch.randperm(count, generator=generator)))
