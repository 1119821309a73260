"""Runs whose looks at a suite and at a safety set are simulated, and how the guards of shares judge them.

Each item is answered as at the look before, or drawn anew: `kept` is how often it stays as it is. With 0 each look
draws all its answers, which is the worst case; checkpoints near each other mostly answer alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from loradeck.schemas.training import OF_ITEMS, SUITE_RIGHT, Safety, Validation, WordList
from loradeck_agent.executors.protocol import Diverged
from loradeck_agent.executors.rows import Suite
from loradeck_agent.executors.training.validation import SafetySet, Selection

LOOKS = 10
"""Looks of a run after the base's."""

CHANGE = 6
"""The look from which a run that changes is another one."""

DIGEST = "5" * 64


def answers(rng: np.random.Generator, shares: Sequence[float], n: int, kept: float) -> list[float]:
    """The share of n items at each look, which of each look is `shares` in the long run."""
    levels, redrawn = rng.random((len(shares), n)), rng.random((len(shares), n)) >= kept
    for look in range(1, len(shares)):
        levels[look] = np.where(redrawn[look], levels[look], levels[look - 1])
    return list((levels < np.array(shares)[:, None]).mean(1))


def steps(before: float, after: float) -> list[float]:
    """The shares of the base and of ten looks: from the sixth on another."""
    return [before] * CHANGE + [after] * (LOOKS + 1 - CHANGE)


class Set(NamedTuple):
    """A safety set: slices of so many prompts each, and how many of the base's answers refuse or are toxic."""

    slices: int
    prompts: int
    kind: str
    share: float


def suite_ended(seed: int, n: int, shares: Sequence[float], kept: float) -> int | None:
    """The look at which a run ends by its suite for selection."""
    held = Selection(Suite((), None), Validation(suite=DIGEST))
    rights = answers(np.random.default_rng(seed), shares, n, kept)
    looks = [
        {"step": float(at), SUITE_RIGHT: right, SUITE_RIGHT + OF_ITEMS: float(n)} for at, right in enumerate(rights)
    ]
    for at in range(1, len(looks)):
        try:
            held.check(looks[: at + 1], LOOKS)
        except Diverged:
            return at
    return None


def safety_ended(seed: int, of: Set, after: float, changing: int, kept: float) -> int | None:
    """The look at which a run ends whose first `changing` slices change to the share `after`."""
    rng = np.random.default_rng(seed)
    held = SafetySet((), Safety(dataset=DIGEST, toxic=WordList(name="x", words=("x",))))
    drawn = {
        f"{of.kind}s{slice_}": answers(rng, steps(of.share, after if slice_ < changing else of.share), of.prompts, kept)
        for slice_ in range(of.slices)
    }
    base = {name: shares[0] for name, shares in drawn.items()} | {name + OF_ITEMS: float(of.prompts) for name in drawn}
    for at in range(1, LOOKS + 1):
        try:
            held.compared(base, {name: shares[at] for name, shares in drawn.items()}, LOOKS)
        except Diverged:
            return at
    return None
