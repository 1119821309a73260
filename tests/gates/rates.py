"""False passes and false fails of a gate of 5 points on 246 items, by its rule and by what the releases truly lose.

One comparison is summed exactly over all counts of lost and won items. Chains of releases are drawn, by a fixed seed.
"""

import math
import random
from collections.abc import Iterator
from functools import cache

from loradeck.rules.quality.comparison import Counts, Pairs, within
from loradeck.schemas.gate import SuiteGate

ITEMS, LIMIT, SEED, CHAINS, RELEASES = 246, 0.05, 16, 100, 10
SUITE = "a" * 64
BY_BOUND = SuiteGate(suite=SUITE, max_drop=LIMIT, bound_drop=True)
BY_DROP = SuiteGate(suite=SUITE, max_drop=LIMIT)


@cache
def passes(lost: int, won: int, n: int, *, bound: bool) -> bool:
    """Whether the counts of a comparison are within the limit."""
    counts = Counts(lost, won, n)
    return within(Pairs(counts, counts, lost, won), BY_BOUND if bound else BY_DROP)


def share_passed(drop: float, differ: float, *, n: int = ITEMS, bound: bool) -> float:
    """Probability that a candidate passes which truly loses `drop`, and differs from the other on `differ` of items."""
    lost, won = (differ + drop) / 2, (differ - drop) / 2
    rest, total = 1 - lost - won, 0.0
    far = round(n * differ + 8 * math.sqrt(n * differ)) + 8
    for k in range(far):
        for m in range(far - k):
            chance = math.exp(
                math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(m + 1) - math.lgamma(n - k - m + 1)
                + k * math.log(lost) + m * (math.log(won) if won else -math.inf if m else 0.0)
                + (n - k - m) * math.log(rest)
            )  # fmt: skip
            if chance > 1e-7 and passes(k, m, n, bound=bound):
                total += chance
    return total


def chain(draw: random.Random, drop: float, *, bound: bool, anchored: bool, n: int = ITEMS) -> int:
    """Number of ten releases that pass one after another, each truly losing `drop` more, from nine in ten right."""
    start = [draw.random() < 0.9 for _ in range(n)]
    live, right, passed = start, 0.9, 0
    for _ in range(RELEASES):
        lose, win = (0.05 + drop / 2) / right, (0.05 - drop / 2) / (1 - right)
        candidate = [draw.random() >= lose if was else draw.random() < win for was in live]
        against = [live, start] if anchored else [live]
        if all(passes(*_counts(other, candidate), n, bound=bound) for other in against):
            live, right, passed = candidate, right - drop, passed + 1
    return passed


def _counts(before: list[bool], after: list[bool]) -> tuple[int, int]:
    lost = sum(was and not now for was, now in zip(before, after, strict=True))
    return lost, sum(now and not was for was, now in zip(before, after, strict=True))


def single() -> Iterator[str]:
    """The lines of the table of one comparison."""
    yield "| truly lost | items that differ | passes by the drop alone | passes by the bound |"
    yield "|---|---|---|---|"
    for points, differ in ((0, 0.05), (0, 0.10), (0, 0.20), (2, 0.10), (5, 0.06), (5, 0.10), (5, 0.20), (8, 0.10)):
        alone, bound = (share_passed(points / 100, differ, bound=bound) for bound in (False, True))
        yield f"| {points} points | {differ:.0%} | {alone:.1%} | {bound:.1%} |"


def chains() -> Iterator[str]:
    """The lines of the table of ten releases, each compared with the one before that passed."""
    yield "| each truly loses | compared with | pass of 10 (mean) | right at the end, from 90 % |"
    yield "|---|---|---|---|"
    for points in (0, 2):
        for what, bound, anchored in (
            ("live, by the drop alone", False, False),
            ("live, by the bound", True, False),
            ("live and anchor, by the bound", True, True),
        ):
            draw = random.Random(SEED)
            passed = sum(chain(draw, points / 100, bound=bound, anchored=anchored) for _ in range(CHAINS)) / CHAINS
            yield f"| {points} points | {what} | {passed:.1f} | {0.9 - passed * points / 100:.0%} |"
