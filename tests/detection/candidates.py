"""Candidates beside a live release, on traffic of published shapes: how often guard takes out one that is as good.

A candidate gets half of a route's callers for two hours. Callers follow Zipf's law and are not alike, their shares of
bad answers wander, and one of them may be broken for most of that time, so that nothing it asks is answered well. Both
arms answer equally well, or the candidate's answers are bad from its beginning on. Guard's evidence
(`loradeck.rules.quality.detection`), its comparison of the arms and the one by callers are the product's; outcomes are
known at once, so that guard is sooner here than it can be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tests.detection.traffic.generator import Requests, requests
from tests.detection.traffic.route import HOUR, Change, Effect, Route, Why

from loradeck.rules.quality.arm_comparison import NodeOutcomes, Outcomes, is_worse
from loradeck.rules.quality.detection import ODDS, ROLLBACK_LEVEL, _bets, rollback_limit
from loradeck.rules.quality.guard import compared
from loradeck.rules.serving.arms import PLACES, seat
from loradeck.schemas.candidate import Figure
from loradeck.schemas.counts import BINS

LONG_S, BROKEN_S = 2 * HOUR, 600.0
"""How long a candidate is out, and when the broken caller begins to be."""

NODES = ("node-0", "node-1")

CALLERS = 200

LARGEST = 20
"""The broken caller is one of so many that ask the most."""

LOOK_S = 10
"""Seconds between two looks, while there is enough evidence. The first look is in the second in which there is."""


@dataclass(frozen=True)
class Kind:
    """What the candidate is: as good as the live release, beside a broken caller or not, or one that is bad."""

    name: str
    rate: float = 1.0
    is_broken: bool = False
    share: float | None = None
    callers: int = CALLERS
    largest: float | None = None


GOOD = (Kind("as good"), Kind("as good, and one caller is broken", is_broken=True))
BAD = (
    Kind("1 → 30%, 200 callers at 40/s", rate=40.0, share=0.3),
    Kind("1 → 30%, 20 callers at 40/s, the largest 60%", rate=40.0, share=0.3, callers=20, largest=0.6),
    Kind("1 → 30%, 200 callers at 1/s", share=0.3),
)


KINDS = (*GOOD, *BAD)

RUNS, RUNS_OF_BAD = 3_000, 100


class Outcome(NamedTuple):
    """Seconds until guard takes the candidate out by the comparison of requests alone, and by that of callers too."""

    by_requests: float | None
    by_callers: float | None


def run(kind: Kind, seed: int) -> Outcome:
    """Lets one candidate be out."""
    changes: tuple[Change, ...] = ()
    if kind.is_broken:
        changes = (Change(at=BROKEN_S, effect=Effect.BAD, cause=Why.CALLER, target=seed % LARGEST, to=1.0),)
    route = Route(
        rate=kind.rate,
        seed=seed,
        callers=kind.callers,
        largest=kind.largest,
        nodes=len(NODES),
        sigma_quarter=0.5,
        sigma_hours=0.3,
        sigma_own=0.4,
        integrations_a_month=0,
        incidents_a_month=0,
        changes=changes,
    )
    asked = requests(route, 0, LONG_S if kind.share is None else LONG_S / kind.rate + 300)
    asked = asked[(asked.attempt == 0) & ~asked.failed]
    seats = [seat(f"salt {seed}", f"caller-{number}") for number in range(kind.callers)]
    places, bins = (np.array(column)[asked.caller] for column in zip(*seats, strict=True))
    is_candidate = places < PLACES // 2
    bad = asked.bad
    if kind.share is not None:
        bad = bad | (is_candidate & (np.random.default_rng(seed).random(len(asked)) < kind.share))
    return _decided(replace(asked, bad=bad), is_candidate, bins, route.share)


def measured(kind: Kind, runs: int) -> dict[str, object]:
    """A row of the table, of runs with the seeds from 0 on: how many candidates were taken out, and when (s)."""
    outcomes = [run(kind, seed) for seed in range(runs)]
    row: dict[str, object] = {"candidate": kind.name, "runs": runs}
    for name in Outcome._fields:
        found = sorted(at for outcome in outcomes if (at := getattr(outcome, name)) is not None)
        delays = [*found, *[math.inf] * (runs - len(found))]
        row[name] = len(found)
        if kind.share is not None:
            at = [delays[math.ceil(p * runs) - 1] for p in (0.5, 0.95)]
            row[f"{name}_s"] = [None if math.isinf(delay) else round(delay) for delay in at]
    return row


def _decided(asked: Requests, is_candidate: NDArray[np.bool_], bins: NDArray[np.int64], usual: float) -> Outcome:
    own = np.flatnonzero(is_candidate)
    nats = np.full(len(own), -math.inf)
    for good, bad in _bets(rollback_limit(usual)):
        np.maximum(nats, np.cumsum(np.where(asked.bad[own], bad, good)), out=nats)
    enough = own[nats - math.log(len(ODDS)) >= ROLLBACK_LEVEL]
    by_requests, looked = None, -math.inf
    for unit in enough:
        if (at := float(asked.time[unit])) < looked + LOOK_S:
            continue
        looked = at
        until = slice(0, int(unit) + 1)
        if not _is_worse_by_requests(asked[until], is_candidate[until]):
            continue
        by_requests = by_requests or at
        arms = [_outcomes(asked[until], bins[until], arm[until]) for arm in (is_candidate, ~is_candidate)]
        if is_worse(Figure.BAD, *arms, rollback_limit(usual)):
            return Outcome(by_requests, at)
    return Outcome(by_requests, None)


def _is_worse_by_requests(asked: Requests, is_candidate: NDArray[np.bool_]) -> bool:
    def units(arm: NDArray[np.bool_], node: int) -> tuple[int, int]:
        there = arm & (asked.node == node)
        return int(asked.bad[there].sum()), int(there.sum())

    by_node = {name: (units(is_candidate, n), units(~is_candidate, n)) for n, name in enumerate(NODES)}
    control = compared(by_node, NODES)
    return control is not None and control.worse


def _outcomes(asked: Requests, bins: NDArray[np.int64], arm: NDArray[np.bool_]) -> Outcomes:
    found: dict[str, NodeOutcomes] = {}
    for n, name in enumerate(NODES):
        there = arm & (asked.node == n)
        units = np.bincount(bins[there], minlength=BINS)
        bad = np.bincount(bins[there], asked.bad[there], minlength=BINS)
        sums = {at: (int(units[at]), 0, int(units[at]), int(bad[at])) for at in np.flatnonzero(units).tolist()}
        found[name] = NodeOutcomes(len(np.unique(asked.caller[there])), sums)
    return found
