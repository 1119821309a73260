"""Delays on traffic of published shapes (`tests.detection.traffic`): the product's rule beside what others would do.

A route's requests all have tools in their bodies and come from 20 callers, of whom the largest has 60 %, or by one key.
They go to two nodes, on which three other tenants are asked as often, and well. A change of the answers begins with a
forward move, save for a hung engine, and nothing is asked again of the release beneath. Without a load's daily rhythm,
incidents and broken integrations, so that a flag is about the change.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tests.detection.delays import FLEET
from tests.detection.replay import Durations, Replay, overdue_at
from tests.detection.traffic.generator import Requests, requests
from tests.detection.traffic.kinds import BITS_OF_KIND, Kind
from tests.detection.traffic.route import DAY, HOUR, Change, Effect, Route, Why

from loradeck.rules.quality.detection import OVERDUE_LIMIT, Limits, flag_level, flag_limit

ERRORS = 0.02
"""Share of failed requests that a route has for usual where it promises none and has no history."""

NODES, NEIGHBOURS, CALLERS, LARGEST = 2, 3, 20, 0.6

WARM_S = {40.0: 600, 1.0: HOUR, 0.05: DAY / 2}
"""Requests a second -> seconds of good traffic before the change, in which routers learn how long answers take."""

HORIZON_S = {40.0: 3000, 1.0: 6 * HOUR, 0.05: 2 * DAY}
"""Requests a second -> seconds after the change in which a flag is waited for."""

RUNS = {40.0: 20, 1.0: 5, 0.05: 3}
JUDGED_RUNS = 100
"""Runs of a case of which a budget is judged."""

BEFORE_S = 60
"""Seconds before the change from which on everything is replayed. Before that routers only learn durations."""

CAUSE_S = 10
"""Seconds after the flag at which its cause is looked at."""


@dataclass(frozen=True)
class Rise:
    """What changes. `usual`: share of bad answers before it, which the route promises; `to`: the share concerned."""

    name: str
    effect: Effect
    usual: float = 0.01
    to: float = 0.3


RISES = (
    Rise("1 → 30%", Effect.BAD),
    Rise("1 → 12%", Effect.BAD, to=0.12),
    Rise("2 → 6%", Effect.BAD, usual=0.02, to=0.06),
    Rise("30% run on", Effect.RUNAWAY),
    Rise("the engine hangs", Effect.HUNG),
    Rise("three times the tokens", Effect.TOKENS),
)


@dataclass(frozen=True)
class Case:
    """A change on a route that is asked so often, by callers who are told apart or not."""

    rise: Rise
    rate: float
    is_one_key: bool = False

    def __str__(self) -> str:
        return f"{self.rate:g}/s, {'one key' if self.is_one_key else f'{CALLERS} callers'}, {self.rise.name}"

    def route(self, seed: int) -> Route:
        """The route of a run."""
        is_move = self.rise.effect is not Effect.HUNG
        cause = Why.RELEASE if is_move else Why.NODE
        changes = [
            Change(at=WARM_S[self.rate], effect=self.rise.effect, cause=cause, target=n, to=self.rise.to)
            for n in range(1 if is_move else NODES)
        ]
        return Route(
            rate=self.rate,
            seed=seed,
            callers=CALLERS,
            largest=LARGEST,
            is_one_key=self.is_one_key,
            nodes=NODES,
            has_rhythm=False,
            share=self.rise.usual,
            integrations_a_month=0,
            incidents_a_month=0,
            changes=tuple(changes),
        )


CASES = [Case(rise, rate, is_one_key) for rate in RUNS for is_one_key in (False, True) for rise in RISES]


class Outcome(NamedTuple):
    """What a run has shown. Delays are seconds, None: not within the horizon.

    Of bad answers they are from the first one that ends, and otherwise from the change. `bound`: the least delay to be
    expected of any rule with this level; None: the share is below the limit. `design`: the design effect in it.
    `steps`: until the engines were found to hang by their steps and by probe; None: they were not, or did not hang.
    `p99_s`: 99th percentile of streamed answers as routers knew it.
    """

    flag: int | None
    steps: int | None
    figure: str
    cause: str
    bound: float | None
    design: float
    p99_s: float
    cusum: int | None
    burn_rate: int | None


def run(case: Case, seed: int) -> Outcome:
    """Lets one change come, and waits for its flag and the cause that it has after CAUSE_S."""
    at, horizon = WARM_S[case.rate], HORIZON_S[case.rate]
    route = case.route(seed)
    asked = with_tools(requests(route, 0, at + horizon))
    is_bad = case.rise.effect is Effect.BAD
    turned = asked.bad & (asked.why == Why.RELEASE) & (asked.time >= at)
    begin = math.floor((asked.time + asked.duration)[turned].min()) + 1 if is_bad and turned.any() else math.floor(at)
    replay = Replay(Limits(bad=case.rise.usual, errors=ERRORS), nodes=NODES)
    durations: Durations = {}
    earlier = asked[asked.time < at - BEFORE_S]
    overdue_at(earlier[earlier.attempt == 0], durations, at - BEFORE_S)
    moves = () if case.rise.effect is Effect.HUNG else (at,)
    replay.add(asked[asked.time >= at - BEFORE_S], moves=moves, durations=durations)
    for number in range(1, NEIGHBOURS + 1):
        # An engine that hangs does so for all tenants.
        changes = () if case.rise.effect is not Effect.HUNG else route.changes
        beside = replace(route, tenant=number, is_one_key=False, changes=changes)
        replay.add(with_tools(requests(beside, at - BEFORE_S, at + horizon)))
    flag, overdue_ms = None, replay.overdue_ms()
    for second in replay.seconds(math.floor(at - BEFORE_S), math.floor(at + horizon)):
        if second <= at:
            overdue_ms = replay.overdue_ms()
        flag = flag or next((flag for flag in reversed(replay.flags) if flag.at >= at), None)
        if flag is not None and second >= flag.at + CAUSE_S:
            break
    bound, design = least(case, asked[asked.time >= at], overdue_ms, flag.at if flag is not None else at + horizon)
    return Outcome(
        flag=max(0, flag.at - begin) if flag is not None else None,
        steps=max(replay.silent.values()) - begin if len(replay.silent) == NODES else None,
        figure=flag.raised.figure if flag is not None else "",
        cause=str(flag.cause(CAUSE_S)) if flag is not None else "",
        bound=bound,
        design=design,
        p99_s=overdue_ms[0] / 1500,
        cusum=_since(begin, cusum(asked, case.rise.usual, at)),
        burn_rate=_since(begin, burn_rate(asked, case, at)),
    )


def _since(begin: int, found: int | None) -> int | None:
    return None if found is None else max(0, found - begin)


def with_tools(asked: Requests) -> Requests:
    """The same requests, each with a body that has tools."""
    return replace(asked, body=(asked.body >> BITS_OF_KIND) << BITS_OF_KIND | int(Kind.TOOLS))


def least(case: Case, asked: Requests, overdue_ms: tuple[int, int], until: float) -> tuple[float | None, float]:
    """The bound on the delay, in seconds, and the design effect in it.

    It is the level over the divergence of the share from the limit, in units, times the design effect: how much more
    the counts of callers vary than those of independent answers do, or those of steps of ten seconds where all use one
    key. Before an answer is overdue nothing is known of it, so that time is added for what runs on.

    Args:
        asked: what was asked since the change. The share is that of all of it.
        overdue_ms: as routers knew it at the change, of streamed and whole answers.
        until: when the flag came, until which the rate of units and the design effect are measured.
    """
    first = asked[asked.attempt == 0]
    if case.rise.effect is Effect.BAD:
        bad, limit, wait_s = first.bad, flag_limit(case.rise.usual), 0.0
    else:
        bad = first.duration > np.where(first.streamed, *overdue_ms) / 1000
        limit, wait_s = OVERDUE_LIMIT, min(overdue_ms) / 1000
    share = float(np.clip(bad.mean(), 1e-9, 1 - 1e-9))
    seen = first.time < until
    clusters = (first.time // 10).astype(np.int64) if case.is_one_key else first.caller
    design = design_effect(bad[seen], clusters[seen])
    if share <= limit:
        return None, design
    divergence = share * math.log(share / limit) + (1 - share) * math.log((1 - share) / (1 - limit))
    rate = max(1, int(seen.sum())) / (until - WARM_S[case.rate])
    return wait_s + design * flag_level(FLEET) / divergence / rate, design


def design_effect(bad: NDArray[np.bool_], cluster: NDArray[np.integer]) -> float:
    """Variance of a share of clustered units over that of as many independent ones, 1 at least."""
    if len(bad) < 2:
        return 1.0
    units = np.bincount(cluster - cluster.min())
    each = np.bincount(cluster - cluster.min(), bad)[units > 0]
    units, share = units[units > 0], bad.mean()
    if len(units) < 2 or not 0 < share < 1:
        return 1.0
    excess = ((each - units * share) ** 2).sum() * len(units) / (len(units) - 1)
    return max(1.0, float(excess / (len(bad) * share * (1 - share))))


def _ends(asked: Requests, until: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """When answers end, in order, and which of them are bad."""
    ends = asked.time + asked.duration
    order = np.argsort(ends, kind="stable")
    order = order[(ends[order] < until) & ~asked.failed[order]]
    return ends[order], asked.bad[order]


def cusum(asked: Requests, usual: float, at: float) -> int | None:
    """The second in which a textbook CUSUM of finished answers finds a share three times the usual one; None: never.

    Page's, of independent answers in the order of their ends, with the level of our flags (Montgomery, "Introduction to
    Statistical Quality Control", chapter 9).
    """
    ends, bad = _ends(asked, float(asked.time[-1]))
    steps = np.where(bad, math.log(3), math.log((1 - 3 * usual) / (1 - usual)))
    total = np.cumsum(steps)
    found = np.flatnonzero((total - np.minimum.accumulate(np.minimum(total, 0)) >= flag_level(FLEET)) & (ends >= at))
    return math.floor(ends[found[0]]) + 1 if len(found) else None


def burn_rate(asked: Requests, case: Case, at: float) -> int | None:
    """The second of the first page by multi-window burn rates of finished answers, after six hours as promised.

    As `tests.detection.delays.burn_rate`: 14.4 times the objective over an hour and five minutes, or six times over six
    hours and thirty minutes, looked at every ten seconds.
    """
    ends, bad = _ends(asked, at + HORIZON_S[case.rate])
    step, before = 10, 6 * 360
    begun = ends >= at
    size = math.ceil(HORIZON_S[case.rate] / step)
    places = ((ends[begun] - at) // step).astype(np.int64)
    n = np.concatenate([np.full(before, case.rate * step), np.bincount(places, minlength=size)[:size]])
    k = np.concatenate(
        [np.full(before, case.rise.usual * case.rate * step), np.bincount(places, bad[begun], size)[:size]]
    )
    total, worse = (np.concatenate([[0.0], values.cumsum()]) for values in (n, k))
    now = np.arange(before + 1, before + size + 1)

    def above(times: float, *seconds: int) -> NDArray[np.bool_]:
        shares = [
            (worse[now] - worse[now - s // step]) / np.maximum(total[now] - total[now - s // step], 1) for s in seconds
        ]
        return np.minimum(*shares) > times * case.rise.usual

    found = np.flatnonzero(above(14.4, 3600, 300) | above(6, 6 * 3600, 1800))
    return math.floor(at + (found[0] + 1) * step) if len(found) else None


def runs_of(case: Case) -> int:
    """How often a case is run for the table."""
    return JUDGED_RUNS if allowed(case, 0.0) is not None else RUNS[case.rate]


def measured(case: Case, many: int) -> dict[str, object]:
    """A row of the table: medians and 95th percentiles of runs with the seeds from 0 on. None: not in the horizon."""
    outcomes = [run(case, seed) for seed in range(many)]
    bounds = [outcome.bound for outcome in outcomes if outcome.bound is not None]
    row: dict[str, object] = {"traffic": str(case), "runs": many, "horizon": HORIZON_S[case.rate]}
    row["hangs"] = case.rise.effect is Effect.HUNG
    for name in ("flag", "steps", "cusum", "burn_rate"):
        delays = [getattr(outcome, name) for outcome in outcomes]
        row[name] = [_percentile(delays, 0.5), _percentile(delays, 0.95)]
    row["bound"] = round(float(np.median(bounds)), 1) if len(bounds) > many / 2 else None
    row["design"] = round(float(np.median([outcome.design for outcome in outcomes])), 2)
    row["causes"] = dict(Counter(outcome.cause for outcome in outcomes if outcome.cause).most_common())
    row["allowed"] = allowed(case, float(np.median([outcome.p99_s for outcome in outcomes])))
    return row


def _percentile(delays: list[int | None], p: float) -> int | None:
    """The percentile (nearest rank) where a delay that has no end is the longest."""
    value = sorted(math.inf if delay is None else delay for delay in delays)[math.ceil(p * len(delays)) - 1]
    return None if math.isinf(value) else int(value)


def allowed(case: Case, p99_s: float) -> float | None:
    """The 95th percentile of the delay that is allowed; None: no design says so."""
    if case.rate != 40:
        return None
    if case.rise.effect is Effect.RUNAWAY:
        return round(2 * p99_s + 10)
    return 15 if case.rise.effect is Effect.HUNG else 5 if case.rise.name == "1 → 30%" else None
