"""Time from the first bad finished answer to a flag and to a rollback, beside the burn-rate alerts of others."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loradeck.rules.quality.detection import (
    ROLLBACK_LEVEL,
    SLOW_LIMIT,
    Detector,
    alert_level,
    flag_level,
    flag_limit,
    late,
    rollback_limit,
)
from loradeck.rules.quality.guard import compared
from loradeck.schemas.counts import TTFT_BUCKETS_MS
from loradeck_agent.router.votes import Outcome, Pair, Pairs

USUAL = 0.01
"""Share of bad answers before the change, and what the route promises."""

ANSWER_S = 4.0
"""Median of an answer's time, which is lognormal with a sigma of 0.5."""

LONG_ANSWER_S = 9
"""Its 95th percentile."""

SHORT_S = 0.3
"""Time of a bad answer, where bad ones are short."""

WARM_S = 120
"""Seconds of good traffic before the change."""

LONGEST_S = 4000

FLEET = 10_000
"""Tenants that share one false flag a week."""


@dataclass(frozen=True)
class Traffic:
    """Requests a second, the share of them that is checked, and the share of bad answers after the change."""

    rate: int
    checked: float
    share: float
    short: bool = False
    beneath: float | None = None
    """The share of bad answers of the release beneath, which is asked again: a promote. None: a candidate, and the
    live release beside it is good.
    """

    def __str__(self) -> str:
        sampled = "all" if self.checked == 1 else f"{self.checked:.0%}"
        shape = ", bad ones short" if self.short else ""
        promote = "" if self.beneath is None else ", a promote"
        return f"{self.rate}/s, {sampled} checked, 1 → {self.share:.0%}{shape}{promote}"


TRAFFIC = [
    Traffic(rate, checked, share, short)
    for rate, checked in ((40, 1.0), (40, 0.1), (1, 1.0))
    for share, short in ((0.3, False), (0.3, True), (0.1, False))
] + [Traffic(rate, 1.0, 0.3, short, beneath=USUAL) for rate in (40, 1) for short in (False, True)]

BUDGET_S = {(40, 1.0): (5, 6), (40, 0.1): (25, 35), (1, 1.0): (85, 120)}
"""(rate, share checked) -> the 95th percentiles that are allowed to a flag and to a rollback, for 1 → 30 %."""


def delays(traffic: Traffic, seed: int, longest_s: int = LONGEST_S) -> tuple[int, int]:
    """Seconds from the first bad answer that ends to the flag, and to the rollback of a release that just went out.

    What has ended by a whole second is known then: routers report each second.
    """
    draw = random.Random(f"{traffic}{seed}")
    again = Again(traffic, seed)
    flag, rollback = (
        Detector(flag_limit(USUAL), restarting=True),
        Detector(rollback_limit(USUAL), restarting=False),
    )
    ends: dict[int, list[int]] = {}
    first_bad, found = 0, [0, 0]
    for second in range(longest_s):
        at = float(second)
        while (at := at + draw.expovariate(traffic.rate)) < second + 1:
            bad = draw.random() < (traffic.share if at >= WARM_S else USUAL)
            took = SHORT_S if bad and traffic.short else draw.lognormvariate(0, 0.5) * ANSWER_S
            if bad and at >= WARM_S:
                first_bad = min(first_bad or longest_s, int(at + took) + 1)
            if second >= WARM_S:
                again.admitted(at, took, bad)
            if draw.random() < traffic.checked:
                for detector in (flag, rollback) if second >= WARM_S else (flag,):
                    detector.add(second, 1, 0)
                if bad:
                    ends.setdefault(int(at + took) + 1, []).append(second)
        now = second + 1
        for admitted in ends.pop(now, []):
            for detector in (flag, rollback) if admitted >= WARM_S else (flag,):
                detector.add(admitted, 0, 1)
        for i, (detector, level) in enumerate(((flag, flag_level(FLEET)), (rollback, ROLLBACK_LEVEL))):
            if not found[i] and now > WARM_S and detector.evidence(now) >= level and (not i or again.says_so(now)):
                found[i] = now
        if all(found):
            break
    return tuple(max(0, (one or longest_s) - first_bad) for one in found)  # type: ignore[return-value]


RATES = (40, 1)
"""Streamed answers a second that are looked at for late first tokens."""

TTFT_MS, PROMISED_MS = 300.0, 1000
"""Median of the time to first token, which is lognormal with a sigma of 0.5 (683 ms in its 95th percentile), and what
the route promises for 95 %. Routers count by buckets, and the promise is the bound of one.
"""


def slow_delay(rate: int, seed: int, longest_s: int = LONGEST_S) -> int:
    """Seconds from the first late first token to SLOW, where each comes after five times as long from one moment on."""
    draw, detector = random.Random(f"slow {rate} {seed}"), Detector(SLOW_LIMIT, restarting=True)
    came: dict[int, list[int]] = {}
    first, level = 0, alert_level(FLEET, 1)
    for second in range(longest_s):
        at = float(second)
        while (at := at + draw.expovariate(rate)) < second + 1:
            ms = draw.lognormvariate(0, 0.5) * TTFT_MS * (5 if at >= WARM_S else 1)
            heard = int(at + ms / 1000) + 1
            came.setdefault(heard, [0] * (len(TTFT_BUCKETS_MS) + 1))[bisect_left(TTFT_BUCKETS_MS, ms)] += 1
            if at >= WARM_S and ms > PROMISED_MS:
                first = min(first or longest_s, heard)
        now = second + 1
        detector.add(now, *late(came.pop(now, []), TTFT_BUCKETS_MS, PROMISED_MS))
        if first and detector.evidence(now) >= level:
            return now - first
    return longest_s


def budget(traffic: Traffic) -> tuple[int, int] | None:
    """The 95th percentiles that are allowed; None: no design says so. A promote's rollback may take an answer more."""
    if traffic.share != 0.3:
        return None
    flag, rollback = BUDGET_S[traffic.rate, traffic.checked]
    return flag, rollback + (LONG_ANSWER_S if traffic.beneath is not None else 0)


class Again:
    """The release beneath, which is asked again by the rule of the router, and answers beside the callers.

    What its answers take does not depend on the live release's. The engine has room for all of them.
    """

    def __init__(self, traffic: Traffic, seed: int) -> None:
        self._traffic = traffic
        self._draw = random.Random(f"again {traffic}{seed}")
        self._now = 0.0
        self._pairs = Pairs("0" * 64, lambda: int(self._now * 1e9), self._draw.random)
        self._ends: list[tuple[float, int, Pair, str, Outcome]] = []

    def admitted(self, at: float, took: float, bad: bool) -> None:
        """A request was admitted, whose answer takes so long and may be bad."""
        draw, share, at_ns = self._draw, self._traffic.beneath, int(at * 1e9)
        self._go_on(at)
        if share is None or not self._pairs.drawn(at_ns):
            return
        worse = draw.random() < share
        again = SHORT_S if worse and self._traffic.short else draw.lognormvariate(0, 0.5) * ANSWER_S
        pair = self._pairs.begin(at_ns)
        self._pairs.asked()
        for end, side, is_bad in ((at + took, "given", bad), (at + again, "again", worse)):
            heapq.heappush(self._ends, (end, id(pair), pair, side, Outcome(failed=False, bad=is_bad)))

    def _go_on(self, now: float) -> None:
        self._now = now
        while self._ends and self._ends[0][0] <= now:
            _, _, pair, side, outcome = heapq.heappop(self._ends)
            setattr(pair, side, outcome)

    def says_so(self, now: int) -> bool:
        """Whether the live release is worse by now."""
        if self._traffic.beneath is None:
            return True
        self._go_on(now)
        said = self._pairs.typed()
        if said is None:
            return False
        control = compared({"n": ((said.bad[0], said.checked), (said.bad[1], said.checked))}, ["n"])
        return control is not None and control.worse


def burn_rate(traffic: Traffic, seed: int) -> int:
    """Seconds until the first page by multi-window burn rates, for the same objective on the same kind of traffic.

    14.4 times the objective over 1 h and 5 min, or 6 times over 6 h and 30 min (Google, "The Site Reliability
    Workbook", chapter 5), after six good hours, looked at every 10 s; six hours where none comes.
    """
    step, before, after = 10, 6 * 360, 6 * 360
    rng = np.random.default_rng([seed, traffic.rate, round(1000 * traffic.share), round(1000 * traffic.checked)])
    n = rng.poisson(traffic.rate * traffic.checked * step, before + after)
    bad = rng.binomial(n, np.where(np.arange(before + after) < before, USUAL, traffic.share))
    total, worse = np.concatenate([[0], n.cumsum()]), np.concatenate([[0], bad.cumsum()])

    def share(now: int, seconds: int) -> float:
        then = max(0, now - seconds // step)
        return float(worse[now] - worse[then]) / max(1, int(total[now] - total[then]))

    for now in range(before + 1, before + after + 1):
        fast = min(share(now, 3600), share(now, 300)) > 14.4 * USUAL
        slow = min(share(now, 6 * 3600), share(now, 1800)) > 6 * USUAL
        if fast or slow:
            return (now - before) * step
    return after * step


def percentile(values: Sequence[int], p: float) -> int:
    """The smallest value that a share `p` (0 to 1) of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(p * len(values)))]
