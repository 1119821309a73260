"""How often the tail of people's words is called lost: where a model writes as people do, and where it does not.

Words are drawn by Zipf's law from 5,000; with topics, each text has its own order of them, one of ten. A model whose
words are sharpened draws by that law to a power, as a temperature under 1 does; one that is cut draws the likeliest
words that make up a share, as top-p does; one that copies itself draws its texts from a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tests.error_rates.written import Case, Table

from loradeck.rules.data.synthetic import share
from loradeck.rules.data.variety import tail_is_lost, tails

SEED, VOCABULARY, WORDS, TOPICS = 17, 5000, 20, 10
LAW = 1 / np.arange(1, VOCABULARY + 1)
LAW /= LAW.sum()

Law = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Model:
    """How a model writes. `few`: it has only so many different texts; 0: each is new."""

    name: str
    law: Law
    counted: str = "rightly"
    few: int = 0


def sharpened(power: float) -> Law:
    law = LAW**power
    return law / law.sum()


def cut(most: float) -> Law:
    law = np.where(np.cumsum(LAW) <= most, LAW, 0.0)
    return law / law.sum()


MODELS = (
    Model(name="as people", law=LAW, counted="falsely"),
    Model(name="words sharpened by 1.1", law=sharpened(1.1)),
    Model(name="words sharpened by 1.25", law=sharpened(1.25)),
    Model(name="words cut to 90 %", law=cut(0.9)),
    Model(name="words cut to 70 %", law=cut(0.7)),
    Model(name="30 texts again and again", law=LAW, few=30),
)


def texts(law: Law, number: int, topics: bool, rng: np.random.Generator, orders: NDArray[np.int64]) -> list[list[str]]:
    """So many texts of some twenty words."""
    lengths = np.maximum(3, rng.poisson(WORDS, number))
    drawn = np.split(rng.choice(VOCABULARY, int(lengths.sum()), p=law), np.cumsum(lengths)[:-1])
    of = orders[rng.integers(0, TOPICS, number)] if topics else [np.arange(VOCABULARY)] * number
    return [[f"w{word}" for word in order[text]] for order, text in zip(of, drawn, strict=True)]


def is_lost(model: Model, people: int, rows: int, topics: bool, number: int) -> bool:
    """Whether the tail is called lost."""
    rng = np.random.default_rng((SEED, number))
    orders = np.array([rng.permutation(VOCABULARY) for _ in range(TOPICS)]) if topics else np.empty((0, 0), np.int64)
    theirs = texts(LAW, people, topics, rng, orders)
    ours = texts(model.law, model.few or rows, topics, rng, orders)
    if model.few:
        ours = [ours[at] for at in rng.integers(0, model.few, rows)]
    return tail_is_lost(*(share(*of) for of in tails(ours, theirs)))


def _cases() -> Iterator[Case]:
    for people, rows, topics in ((48, 48, False), (200, 100, False), (200, 1000, False), (200, 200, True)):
        for model in MODELS:
            what = f"{people} texts of people{' on ten topics' * topics}, {rows:,} rows: {model.name}"
            says: Callable[[int], bool] = partial(is_lost, model, people, rows, topics)
            draws = 400 if model.counted == "falsely" else 100
            yield Case(what=what, counted=model.counted, says=says, draws=draws)


TAILS_TABLE = Table(
    name="tails", page="synthetic.md", seed=SEED, head=("answers", "lost"), cases=tuple(_cases()), again=2
)
