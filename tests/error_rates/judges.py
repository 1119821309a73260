"""How often a judge decides at a gate, by how far it truly agrees with people: summed exactly over all counts.

Answers are good or bad, and pairs won by a or b. The judge errs as often in either direction, so that it says as often
as people what they say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Literal

from tests.error_rates.written import Summed

from loradeck.rules.data.preferences import FLOORS
from loradeck.rules.quality.gate_judge import held

Kind = Literal["answer", "pair"]


@cache
def decides(kind: Kind, first: int, second: int, differ: int) -> bool:
    """Whether a judge counts that agrees on so many of either kind, and differs on others, half of them each way."""
    one = differ // 2
    counts = (first, second, one, differ - one)
    labels, verdicts = (("good", "bad"), (True, False)) if kind == "answer" else (("a", "b"), ("won", "lost"))
    people = [labels[at] for at, n in zip((0, 1, 0, 1), counts, strict=True) for _ in range(n)]
    judge = [verdicts[at] for at, n in zip((0, 1, 1, 0), counts, strict=True) for _ in range(n)]
    found = held(kind, people, judge).agreement
    return found.alpha is not None and found.low >= FLOORS[kind]


def share_decided(kind: Kind, items: int, split: float, alpha: float) -> float:
    """Probability that it counts where its alpha with people is this in the long run. `split`: share of the first."""
    differ = 2 * split * (1 - split) * (1 - alpha)
    shares = (split - differ / 2, 1 - split - differ / 2, differ)
    logs = [math.log(share) if share > 0 else -math.inf for share in shares]
    total = 0.0
    for first in range(items + 1):
        for second in range(items + 1 - first):
            counts = (first, second, items - first - second)
            log = math.lgamma(items + 1) - sum(math.lgamma(n + 1) for n in counts)
            log += sum(n * of for n, of in zip(counts, logs, strict=True) if n)
            if log > -14 and decides(kind, *counts):
                total += math.exp(log)
    return total


ALPHAS: dict[Kind, tuple[float, ...]] = {"answer": (0.5, 0.67, 0.8, 0.9, 1.0), "pair": (0.0, 0.2, 0.4, 0.6, 0.8)}


def lines() -> Iterator[str]:
    """Yields the lines of the table."""
    heads: tuple[tuple[Kind, tuple[float, ...]], ...] = (("answer", (0.5, 0.8, 0.95)), ("pair", (0.5,)))
    for kind, splits in heads:
        alphas = ALPHAS[kind]
        yield f"| {kind}s | people say | {' | '.join(f'alpha {one:g}' for one in alphas)} |"
        yield "|---" * 7 + "|"
        for split in splits:
            for items in (40, 100, 200):
                cells = " | ".join(f"{share_decided(kind, items, split, alpha):.1%}" for alpha in alphas)
                yield f"| {items} | {split:.0%} and {1 - split:.0%} | {cells} |"
        if kind == "answer":
            yield ""


JUDGE_TABLE = Summed(name="judges", page="gates.md", made=lines, again=3)
