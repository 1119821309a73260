"""False flags of good releases, many tenants at once: the rule of `loradeck.rules.quality.detection` as arrays.

A part is 3,000 tenants for three hours, and eight parts after each other are a day. Each begins without any wealth, and
takes a core a few seconds.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from tests.detection.delays import FLEET, USUAL

from loradeck.rules.quality.detection import ODDS, _bets, flag_level, flag_limit

TENANTS = 3_000
DAY_S = 86_400
PART_S = DAY_S // 8

KINDS = ("at the limit", "usual", "rhythm")
"""Shares of bad answers: just at the limit of the flag, at the promise, or swinging between 0.5 and 2 % each day."""

RATES = (1, 10, 40)
"""Requests a second; each is a third of the tenants."""

LIMIT = flag_limit(USUAL)
GOOD, BAD = (np.array(column)[:, None] for column in zip(*_bets(LIMIT), strict=True))


def share(kind: str, second: int) -> float:
    """The share of bad answers in a second of the day."""
    if kind == "rhythm":
        return 0.0125 + 0.0075 * math.sin(2 * math.pi * second / DAY_S)
    return LIMIT if kind == "at the limit" else USUAL


def after(wealth: NDArray[np.float64], units: NDArray[np.int64], bad: NDArray[np.int64]) -> NDArray[np.float64]:
    """The wealth of each tenant's bets (bets x tenants, nats) after a second."""
    grown: NDArray[np.float64] = np.maximum(wealth, 0) + (units - bad) * GOOD + bad * BAD
    return grown


def part(kind: str, number: int, *, tenants: int = TENANTS, seconds: int = PART_S) -> tuple[int, float]:
    """Simulates tenants of one kind. Returns how many were flagged, and the most evidence there was, nats."""
    rng = np.random.default_rng([KINDS.index(kind), number])
    rates = np.resize(RATES, tenants)
    wealth = np.zeros((len(ODDS), tenants))
    most = np.full(tenants, -math.inf)
    begins = number % (DAY_S // PART_S) * PART_S
    for second in range(begins, begins + seconds):
        units = rng.poisson(rates)
        wealth = after(wealth, units, rng.binomial(units, share(kind, second)))
        np.maximum(most, wealth.max(axis=0), out=most)
    most -= math.log(len(ODDS))
    return int((most >= flag_level(FLEET)).sum()), float(most.max())
