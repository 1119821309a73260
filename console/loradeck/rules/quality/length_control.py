"""What a judge's choices between two answers come to, without what the longer answer wins by its length.

Judges choose the longer answer more often, whoever wrote it. As in the length-controlled win rates of AlpacaEval 2
(Dubois et al., arXiv:2404.04475, section 3), the outcome of a pair is regressed on how much longer the candidate's
answer is, and the drop is what the regression says of answers of equal length. Outcomes are 1 (lost), -1 (won) and 0,
the regression is linear, so that the drop is a share as the gate's limit is, and length enters in two ways:

- as tanh of the difference over its standard deviation, which is AlpacaEval's: the liking grows with the difference;
- as its sign alone: the longer one is liked, by however little. A candidate that is mostly longer by much could
  otherwise hide it in the constant.

The way by which more is lost decides. What is known of answers of equal length is less than of all: of n pairs in which
the length has a mean of m and a sum of squares S around it, the drop has the variance of n / (1 + n m^2 / S) pairs
(ordinary least squares), so many of which count. Where one side is longer throughout, its length cannot be told from
what it says, and none do.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from loradeck.rules.quality.comparison import Counts
from loradeck.rules.quality.statistics import drop_bound


class JudgedPair(NamedTuple):
    """A pair's outcome for the candidate, 1 lost, -1 won and 0 neither; and by how many words its answer is longer."""

    outcome: int
    words: int


def controlled(pairs: Sequence[JudgedPair]) -> Counts:
    """Counts pairs as if all answers were equally long: lost, won, and of how many pairs that is worth.

    Where no answer is longer than the other, or as much longer in lost pairs as in won ones on either side, these are
    the pairs as they are.
    """
    if not pairs:
        return Counts(0, 0, 0)
    mean = math.fsum(pair.words for pair in pairs) / len(pairs)
    deviation = math.sqrt(math.fsum((pair.words - mean) ** 2 for pair in pairs) / len(pairs))
    ways = [[float((pair.words > 0) - (pair.words < 0)) for pair in pairs]]
    if deviation:
        ways.append([math.tanh(pair.words / deviation) for pair in pairs])
    return max((_at_equal_length(pairs, lengths) for lengths in ways), key=lambda counts: drop_bound(*counts))


def _at_equal_length(pairs: Sequence[JudgedPair], lengths: Sequence[float]) -> Counts:
    n, outcomes = len(pairs), [pair.outcome for pair in pairs]
    mean, drop = math.fsum(lengths) / n, sum(outcomes) / n
    squares = math.fsum((length - mean) ** 2 for length in lengths)
    if not squares and mean:
        return Counts(0, 0, 0)
    both = math.fsum((length - mean) * (outcome - drop) for length, outcome in zip(lengths, outcomes, strict=True))
    slope = both / squares if squares else 0.0
    worth = math.floor(n / (1 + n * mean * mean / squares)) if squares else n
    drop = max(-1.0, min(1.0, drop - slope * mean))
    differ = max(sum(map(abs, outcomes)) / n, abs(drop))
    return Counts(worth * (differ + drop) / 2, worth * (differ - drop) / 2, worth)
