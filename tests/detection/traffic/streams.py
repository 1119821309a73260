"""Reproducible randomness: a generator for each route, part of time and purpose, and noise that remembers.

Nothing here has a state that runs on, so that any part of a span is drawn by itself and is the same as in the whole.
"""

from __future__ import annotations

import enum
import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

MINUTES_A_DAY = 1440
BLOCK = 180
"""Minutes that are summed at once. Their weights grow by `exp(BLOCK / time constant)`, far below 1e15."""

SHORTEST_CONSTANT = 10.0
"""Minutes. The shortest time constant whose weights stay exact within a block (1e8 of 1e15)."""

LONGEST_CONSTANT = 240.0
"""Minutes. The longest time constant that has forgotten the beginning of yesterday by today (exp(-6))."""


class Stream(enum.IntEnum):
    """What a generator is for. Each has a generator of its own, so that a draw for one moves no draw for another."""

    CALLERS = 1
    LOAD = 2
    DRIFT = 3
    CALLER_DRIFT = 4
    INCIDENTS = 5
    INTEGRATIONS = 6
    ARRIVALS = 7
    REQUESTS = 8
    ANSWERS = 9
    BODIES = 10


def stream(seed: int, tenant: int, purpose: Stream, *numbers: int) -> Generator:
    """A generator that depends on its arguments alone: all of them integers that are not negative."""
    return np.random.default_rng([seed, tenant, int(purpose), *numbers])


def autoregression(
    seed: int, tenant: int, purpose: Stream, day: int, constants: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AR(1) noise of one day: a row a minute, a column for each time constant (in minutes), mean 0 and variance 1.

    It is begun a day earlier from its stationary distribution, so that days join: at midnight it differs from a series
    that never ends by exp(-1440 / constant) of a standard deviation. Raises ValueError for a constant that is too short
    or too long for that.
    """
    if np.any(constants < SHORTEST_CONSTANT) or np.any(constants > LONGEST_CONSTANT):
        raise ValueError(f"time constants lie between {SHORTEST_CONSTANT} and {LONGEST_CONSTANT} minutes: {constants}")
    days = [
        stream(seed, tenant, purpose, number).standard_normal((MINUTES_A_DAY, len(constants)))
        for number in (day, day + 1)  # a day's own noise has the next number, since the day before the first needs one
    ]
    noise = np.concatenate(days)
    memory = np.exp(-1.0 / constants)
    innovations = noise * np.sqrt(1 - memory**2)
    powers = memory ** np.arange(BLOCK)[:, None]
    values = np.empty_like(noise)
    previous = noise[0] / memory
    innovations[0] = 0.0
    for begin in range(0, len(noise), BLOCK):
        block = innovations[begin : begin + BLOCK]
        values[begin : begin + BLOCK] = powers * (np.cumsum(block / powers, axis=0) + memory * previous)
        previous = values[begin + BLOCK - 1]
    return values[MINUTES_A_DAY:]


def autocorrelation(minutes: float, constant: float) -> float:
    """What `autoregression` keeps of itself after so many minutes: between 0 and 1."""
    return math.exp(-minutes / constant)
