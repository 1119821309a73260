"""How long answers take: a lognormal body with a Pareto tail, of the first token and of the rest."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .route import Spread

LIMIT_S = 600.0
"""No answer that ends takes longer: OpenAI's client gives up after ten minutes by default."""

RUNAWAY = Spread(median=120.0, sigma=0.5, tail=0.02, index=2.2)
REFUSAL = Spread(median=0.3, sigma=0.8, tail=0.02, index=2.2)
"""What has failed, most of it at once."""

REFUSAL_LIMIT_S = 30.0
LOAD_EXPONENT = 0.2


def threshold(spread: Spread) -> float:
    """Seconds at which the tail begins."""
    return spread.median * math.exp(spread.sigma * NormalDist().inv_cdf(1 - spread.tail))


def seconds(spread: Spread, normal: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Durations of the distribution, from a standard normal and a uniform number of each. They have no limit.

    What the lognormal distribution puts above the threshold is spread over the tail, so that its share stays the same.
    """
    body = spread.median * np.exp(spread.sigma * normal)
    begin = threshold(spread)
    tail = begin * (1 - uniform) ** (-1 / spread.index)
    return np.where(body > begin, tail, body)
