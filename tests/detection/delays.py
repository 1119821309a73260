"""Time from the first bad finished answer to a flag and to a rollback, beside the burn-rate alerts of others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loradeck.rules.quality.detection import ROLLBACK_LEVEL, Detector, flag_level, flag_limit, rollback_limit

USUAL = 0.01
"""Share of bad answers before the change, and what the route promises."""

ANSWER_S = 4.0
"""Median of an answer's time, which is lognormal with a sigma of 0.5."""

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

    def __str__(self) -> str:
        sampled = "all" if self.checked == 1 else f"{self.checked:.0%}"
        shape = ", bad ones short" if self.short else ""
        return f"{self.rate}/s, {sampled} checked, 1 → {self.share:.0%}{shape}"


TRAFFIC = [
    Traffic(rate, checked, share, short)
    for rate, checked in ((40, 1.0), (40, 0.1), (1, 1.0))
    for share, short in ((0.3, False), (0.3, True), (0.1, False))
]

BUDGET_S = {(40, 1.0): (5, 6), (40, 0.1): (25, 35), (1, 1.0): (85, 120)}
"""(rate, share checked) -> the 95th percentiles that are allowed to a flag and to a rollback, for 1 → 30 %."""


def delays(traffic: Traffic, seed: int) -> tuple[int, int]:
    """Seconds from the first bad answer that ends to the flag, and to the rollback of a release that just went out.

    What has ended by a whole second is known then: routers report each second.
    """
    draw = random.Random(f"{traffic}{seed}")
    flag, rollback = (
        Detector(flag_limit(USUAL), restarting=True),
        Detector(rollback_limit(USUAL), restarting=False),
    )
    ends: dict[int, list[int]] = {}
    first_bad, found = 0, [0, 0]
    for second in range(LONGEST_S):
        at = float(second)
        while (at := at + draw.expovariate(traffic.rate)) < second + 1:
            bad = draw.random() < (traffic.share if at >= WARM_S else USUAL)
            took = SHORT_S if bad and traffic.short else draw.lognormvariate(0, 0.5) * ANSWER_S
            if bad and at >= WARM_S:
                first_bad = min(first_bad or LONGEST_S, int(at + took) + 1)
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
            if not found[i] and now > WARM_S and detector.evidence(now) >= level:
                found[i] = now
        if all(found):
            break
    return tuple(max(0, (one or LONGEST_S) - first_bad) for one in found)  # type: ignore[return-value]


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
