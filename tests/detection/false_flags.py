"""False flags of good releases: the rule of `loradeck.rules.quality.detection` for many tenants at once.

A part is 3,000 tenants for one day, and takes a core some seconds. Each begins without any wealth. The hub looks once a
second; here the bets begin again, and are looked at, after every unit: their wealth is never below the hub's, and no
flag is missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from tests.detection.delays import FLEET, USUAL

from loradeck.rules.quality.detection import ODDS, _bets, flag_level, flag_limit

TENANTS = 3_000
PART_S = DAY_S = 86_400

KINDS = ("at the limit", "usual", "rhythm")
"""Shares of bad answers: just at the limit of the flag, at the promise, or swinging between 0.5 and 2 % each day."""

RATES = (1, 10, 40)
"""Units a second; each is a third of the tenants."""

LIMIT = flag_limit(USUAL)

_AT_ONCE = 1_000_000
"""Units that may be bad which are held in memory at a time."""


def share(kind: str, second: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shares of bad answers at seconds of the day."""
    if kind == "rhythm":
        swing: NDArray[np.float64] = 0.0125 + 0.0075 * np.sin(2 * math.pi * second / DAY_S)
        return swing
    return np.full_like(second, LIMIT if kind == "at the limit" else USUAL)


def evidence_after(good: NDArray[np.int64], bad: NDArray[np.bool_], limit: float = LIMIT) -> NDArray[np.float64]:
    """The evidence of each tenant after each step, in nats, as `Detector.evidence` has it with `restarting`.

    Args:
        good: tenants x steps; the good units before the one that a step ends with.
        bad: tenants x steps; whether the unit that a step ends with is bad.
        limit: of the share of bad units.
    """
    most = np.full(good.shape, -math.inf)
    for _, wealth in wealths(good, bad, limit):
        np.maximum(most, wealth, out=most)
    return most - math.log(len(ODDS))


def wealths(
    good: NDArray[np.int64], bad: NDArray[np.bool_], limit: float
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The wealth of each bet, in nats, before the last unit of each step and after it; see `evidence_after`.

    Lindley's recursion: what is left of the wealth before a step's last unit is the sum over its least so far.
    """
    for of_good, of_bad in _bets(limit):
        last = np.where(bad, of_bad, of_good)
        moved = good * of_good
        moved[:, 1:] += last[:, :-1]
        moved[:, 0] = 0
        total = np.cumsum(moved, axis=1)
        total -= np.minimum.accumulate(total, axis=1)
        yield total, total + last


def most_evidence(good: NDArray[np.int64], bad: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The most evidence of each tenant; see `evidence_after`."""
    most: NDArray[np.float64] = evidence_after(good, bad).max(axis=1)
    return most


def part(kind: str, number: int, *, tenants: int = TENANTS, seconds: int = PART_S) -> tuple[int, float]:
    """Simulates tenants of one kind. Returns how many were flagged, and the most evidence there was, nats."""
    rng = np.random.default_rng([KINDS.index(kind), number])
    highest = float(share(kind, np.linspace(0, DAY_S, 1000)).max())
    flagged, most = 0, -math.inf
    for rate in RATES:
        units = rate * seconds
        steps = math.ceil(units * highest + 8 * math.sqrt(units * highest)) + 8
        for begin in range(0, tenants // len(RATES), max(1, _AT_ONCE // steps)):
            many = min(max(1, _AT_ONCE // steps), tenants // len(RATES) - begin)
            # Thinning: a unit may be bad with the highest probability there is, and of these some are good after all.
            before = rng.geometric(highest, (many, steps)) - 1
            at = np.cumsum(before + 1, axis=1)
            bad = rng.random((many, steps)) * highest < share(kind, at / rate)
            bad &= at <= units
            evidence = most_evidence(before, bad)
            flagged += int((evidence >= flag_level(FLEET)).sum())
            most = max(most, float(evidence.max()))
    return flagged, most
