"""Two arms of callers that are simulated: how often steps on evidence, and an A/B, are wrong of a candidate.

Callers differ: the share of bad answers of each is drawn from a beta distribution around its arm's, so that two answers
to one caller are correlated by `alike`. Where few ask the most, how often each asks is lognormal (sigma 1.5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tests.error_rates.written import Case, Table

from loradeck.rules.quality import arm_comparison
from loradeck.rules.quality.arm_comparison import NodeOutcomes, Outcomes, difference, highest, units_of
from loradeck.rules.quality.steps import Around, decide
from loradeck.schemas.candidate import Candidate, Comparison, ComparisonResult, Figure, StepPlan
from loradeck.schemas.counts import BINS
from loradeck.schemas.gate import CompareGate

SEED = 17
LOOKS = 120
ROUNDS = 30.0
"""Requests of an average caller, in multiples of `Callers.requests`, by the last look."""

NODE = frozenset({"n1"})
STEPS = (50, 200, 500, 1000)


@dataclass(frozen=True, kw_only=True)
class Callers:
    """Callers of a pointer. `share`: thousandths that get the candidate; `requests`: of each, on average."""

    keys: int
    share: int
    live: float
    worse: float = 0.0
    alike: float = 0.05
    requests: float = 5.0
    few: bool = False

    def __str__(self) -> str:
        sizes = ", few ask the most" if self.few else ""
        return f"{self.keys:,} callers, {self.share / 10:g} %, {self.live:.1%} bad, alike {self.alike:g}{sizes}"


def looked_at(callers: Callers, looks: int, rounds: float, rng: np.random.Generator) -> Iterator[tuple[Outcomes, ...]]:
    """Yields what a node has said of both arms at each look, candidate first; looks are apart by an equal factor."""
    keys, live = callers.keys, callers.live
    given = rng.random(keys) < callers.share / 1000
    bins, rate = rng.integers(0, BINS, keys), np.ones(keys)
    if callers.few:
        rate = rng.lognormal(0.0, 1.5, keys)
        rate /= rate.mean()
    of = 1 / callers.alike - 1
    means = np.where(given, live + callers.worse, live)
    shares = rng.beta(np.maximum(means, 1e-9) * of, (1 - means) * of)
    until = rounds * callers.requests * np.geomspace(1, 1 / (4 * rounds * callers.requests), looks)[::-1]
    counts, bad = np.zeros(keys, dtype=np.int64), np.zeros(keys, dtype=np.int64)
    for more in np.diff(until, prepend=0.0):
        new = rng.poisson(rate * more)
        counts += new
        bad += rng.binomial(new, shares)
        yield tuple(_said(bins, bad, counts, arm) for arm in (given, ~given))


def _said(
    bins: NDArray[np.int64], bad: NDArray[np.int64], counts: NDArray[np.int64], arm: NDArray[np.bool_]
) -> Outcomes:
    n = np.bincount(bins[arm], weights=counts[arm], minlength=BINS).astype(int).tolist()
    k = np.bincount(bins[arm], weights=bad[arm], minlength=BINS).astype(int).tolist()
    seen = int((counts[arm] > 0).sum())
    return {"n1": NodeOutcomes(seen, {at: (n[at], 0, n[at], k[at]) for at in range(BINS) if n[at]})}


def is_widened(callers: Callers, margin: float, number: int) -> bool:
    """Whether a step is taken at any look while the candidate has its share."""
    plan = StepPlan(steps=STEPS, margin=margin, figures=(Figure.BAD,))
    out = Candidate(generation=3, permille=callers.share, salt="5a1c02b7", release="a" * 64, plan=plan)
    around = Around(keys=callers.keys, since_s=3600, heard=1.0, placed=NODE)
    looks = looked_at(callers, LOOKS, ROUNDS, np.random.default_rng((SEED, number)))
    return any(decide(out, *arms, around).permille is not None for arms in looks)


def compared(callers: Callers, number: int, of_release: int = 1) -> ComparisonResult:
    """The record of an A/B at its end. `of_release`: how many of the release there were, with this one."""
    ((candidate, live),) = looked_at(callers, 1, 1.0, np.random.default_rng((SEED, number)))
    found = difference(units_of(candidate, Figure.BAD), units_of(live, Figure.BAD))
    return ComparisonResult(
        release="a" * 64,
        against="b" * 64,
        generation=3,
        permille=callers.share,
        comparison=Comparison(figure=Figure.BAD, step=1, from_ms=0, until_ms=1_000),
        at_ms=9,
        arms=arm_comparison.compared(Figure.BAD, candidate, live, found, NODE),
        highest=highest(Figure.BAD, candidate, live, NODE, of_release),
        number=of_release,
    )


def passes(callers: Callers, margin: float, times: int, number: int) -> bool:
    """Whether a gate passes the candidate by any of so many A/Bs, one after another."""
    gate = CompareGate(figure=Figure.BAD, margin=margin, keys=20)
    made = (compared(callers, number * times + at, at + 1) for at in range(times))
    return any(arm_comparison.ab_check(gate, one).passed for one in made)


def differs(callers: Callers, number: int) -> bool:
    """Whether the interval of an A/B leaves out no difference."""
    arms = compared(callers, number).arms
    return arms.low > 0 or arms.high < 0


def _step_cases() -> Iterator[Case]:
    for keys, share, live, alike, few in (
        (1000, 50, 0.01, 0.05, False),
        (1000, 200, 0.01, 0.05, False),
        (1000, 200, 0.0, 0.5, False),
        (1000, 200, 0.05, 0.3, False),
        (400, 500, 0.01, 0.05, False),
        (400, 500, 0.01, 0.05, True),
        (4000, 50, 0.01, 0.05, True),
        (100, 200, 0.01, 0.05, False),
    ):
        callers = Callers(keys=keys, share=share, live=live, alike=alike, few=few)
        for margin in (0.02, 0.05):
            worse, points = replace(callers, worse=margin), f"{100 * margin:g} points"
            yield Case(
                what=f"{callers}; worse by the margin of {points}",
                counted="falsely",
                says=partial(is_widened, worse, margin),
                draws=400,
            )
            yield Case(
                what=f"{callers}; as good, margin {points}",
                counted="rightly",
                says=partial(is_widened, callers, margin),
                draws=200,
            )


def _ab_cases() -> Iterator[Case]:
    for keys, live, alike, few in (
        (100, 0.02, 0.05, False),
        (400, 0.02, 0.05, False),
        (2000, 0.02, 0.05, False),
        (2000, 0.02, 0.05, True),
        (400, 0.1, 0.3, False),
        (2000, 0.1, 0.3, False),
    ):
        callers = Callers(keys=keys, share=500, live=live, alike=alike, few=few)
        yield Case(
            what=f"{callers}; as good", counted="a difference, falsely", says=partial(differs, callers), draws=1000
        )
        for margin in (0.02, 0.05):
            for worse, counted in ((margin, "falsely"), (margin / 2, "rightly"), (0.0, "rightly")):
                yield Case(
                    what=f"{callers}; worse by {100 * worse:g} points",
                    counted=f"passes {100 * margin:g} points, {counted}",
                    says=partial(passes, replace(callers, worse=worse), margin, 1),
                    draws=1000,
                )
    callers = Callers(keys=2000, share=500, live=0.02, worse=0.02)
    for times in (2, 5, 10):
        yield Case(
            what=f"{callers}; worse by 2 points, {times} A/Bs",
            counted="passes 2 points at one of them, falsely",
            says=partial(passes, callers, 0.02, times),
            draws=400,
        )


STEPS_TABLE = Table(
    name="steps", page="detection.md", seed=SEED, head=("callers", "widened"), cases=tuple(_step_cases()), again=1
)
AB_TABLE = Table(name="ab", page="gates.md", seed=SEED, head=("callers", "counted"), cases=tuple(_ab_cases()))
