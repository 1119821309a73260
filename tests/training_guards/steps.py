"""Runs whose losses and log-probabilities are simulated step by step, and the step at which a guard ends them.

A step's loss is the mean over its rows. It falls from 2 nats to a level; around that rows differ by a kind of noise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np

from loradeck.schemas.training import Guards
from loradeck_agent.executors.protocol import Diverged
from loradeck_agent.executors.training.guards import Watch

STEPS, CHANGE = 500, 300
"""Steps of a run, and the one after which it changes, if it does."""

KEPT = Path(__file__).parents[2] / "docs" / "training-guards.json"

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Draws what each row of each step is multiplied with, and what stands in its place: `(steps, batch)` of nats."""


LEARNT = 40
"""Steps of the recorded run after which its losses fall no further."""


@cache
def recorded() -> np.ndarray:
    """The losses of single rows in the recorded run, once it has learnt what most of them ask for."""
    return np.array(json.loads(KEPT.read_text())["recorded"]["loss"][LEARNT:])


def _level(low: float) -> np.ndarray:
    return (low + (2.0 - low) * np.exp(-np.arange(STEPS) / 40))[:, None]


def lognormal(sigma: float, low: float) -> Draw:
    """Rows that differ by a factor; `sigma` is of its logarithm. `low`: nats that the losses fall to."""
    return lambda rng, batch: _level(low) * np.exp(sigma * rng.standard_normal((STEPS, batch)))


def heavy(scale: float, low: float) -> Draw:
    """Rows whose factor has heavy tails: its logarithm is Student's with three degrees of freedom."""
    return lambda rng, batch: _level(low) * np.exp(np.clip(scale * rng.standard_t(3, (STEPS, batch)), -5, 5))


def wrong(share: float, nats: float, low: float) -> Draw:
    """Rows of which some are wrong, or of another kind: they cost so many nats however well the others are learnt."""

    def draw(rng: np.random.Generator, batch: int) -> np.ndarray:
        rest = lognormal(0.5, low)(rng, batch)
        return np.where(rng.random(rest.shape) < share, nats, rest)

    return draw


def as_recorded(rng: np.random.Generator, batch: int) -> np.ndarray:
    """Rows with the losses of the recorded run, in any order."""
    return rng.choice(recorded(), (STEPS, batch))


def steady(losses: np.ndarray) -> np.ndarray:
    return losses


def times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """From the change on, losses are so many times what they would be."""
    return lambda losses: np.concatenate([losses[:CHANGE], factor * losses[CHANGE:]])


def unlearnt(losses: np.ndarray) -> np.ndarray:
    """From the change on, losses are at least 3 nats, as before the first step."""
    return np.concatenate([losses[:CHANGE], np.maximum(losses[CHANGE:], 3.0)])


def doubling(steps: int) -> Callable[[np.ndarray], np.ndarray]:
    """From the change on, losses double every so many steps, up to a hundred times what they would be."""
    growth = np.minimum(2.0 ** (np.arange(STEPS - CHANGE) / steps), 100)
    return lambda losses: np.concatenate([losses[:CHANGE], growth * losses[CHANGE:]])


def loss_ended(seed: int, draw: Draw, batch: int, change: Callable[[np.ndarray], np.ndarray]) -> int | None:
    """The step after which `loss_spike` ends a run."""
    losses = change(draw(np.random.default_rng(seed), batch).mean(1)).tolist()
    watch = Watch(Guards())
    return _ended(lambda step: watch.look(step, losses[step], 1.0))


Pairs = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
"""Draws log p of the chosen answers by the reference, and by how much of it each has moved without a change."""


def answers_of(nats: float, spread: float, moved: float) -> Pairs:
    """Answers of about so many nats, which move to and fro by a share of it with heavy tails."""

    def draw(rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
        reference = -nats * np.exp(spread * rng.standard_normal((STEPS, batch)))
        return reference, moved * rng.standard_t(3, (STEPS, batch))

    return draw


def sure(rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """A word that the reference is sure of: nine in ten become certain, one in ten loses on average what those gain."""
    reference = np.full((STEPS, batch), -0.3)
    lost = rng.exponential(9.0, (STEPS, batch))
    return reference, np.where(rng.random((STEPS, batch)) < 0.1, -lost, 1.0)


def chosen_ended(seed: int, draw: Pairs, batch: int, fall: float) -> int | None:
    """The step after which `chosen_fell` ends a run whose chosen answers fall by a share within fifty steps."""
    reference, moved = draw(np.random.default_rng(seed), batch)
    falling = fall * np.clip((np.arange(STEPS) - CHANGE) / 50, 0, 1)[:, None]
    logps = (reference - np.abs(reference) * (falling - moved)).mean(1).tolist()
    means, watch = reference.mean(1).tolist(), Watch(Guards())
    return _ended(lambda step: watch.chosen(step, logps[step], means[step]))


def _ended(look: Callable[[int], None], steps: Iterable[int] = range(STEPS)) -> int | None:
    for step in steps:
        try:
            look(step)
        except Diverged:
            return step
    return None
