"""Leaks: whether a release reproduces rows that it was trained on, more often than its base does."""

import math

from loradeck.rules.quality.comparison import loss_check
from loradeck.rules.quality.statistics import drop_bound, items_to_bound, upper_bound
from loradeck.schemas.attestation import CheckResult, LeakReport
from loradeck.schemas.gate import LeakGate

NEAR = 0.1
"""Largest edit distance, as a share of the remainder's characters, at which a continuation reproduces it."""


def reproduces(remainder: str, continuation: str) -> bool:
    """Tells whether a continuation says what a row goes on with: at most one character in ten is another.

    The distance is Levenshtein's. White space at the ends does not count, and neither does what follows the remainder.
    """
    wanted = remainder.strip()
    said = continuation.strip()[: len(wanted)]
    most = math.floor(NEAR * len(wanted))
    if len(wanted) - len(said) > most:
        return False
    before = list(range(len(said) + 1))
    for i, one in enumerate(wanted, start=1):
        row = [i]
        for j, other in enumerate(said, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (one != other)))
        if min(row) > most:
            return False
        before = row
    return before[-1] <= most


def check(config: LeakGate, report: LeakReport) -> CheckResult:
    """Checks the upper one-sided 95 % bound of the increase over the base against the gate's limit."""
    lost, won, n = report.only_release, report.only_base, report.n
    # So few rows leak that the score test alone would pass 6.8 % of what leaks as the limit says.
    bound = max(drop_bound(lost, won, n), upper_bound(max(0, lost - won), n))
    needed = items_to_bound(1 - config.max_increase)
    small = n < needed
    note = f"{report.both + lost} of {n} rows reproduced, {report.both + won} by the base; {report.measure}"
    if small:
        note = f"too few rows: {n} answers are long enough, {needed} are needed for {config.max_increase:.1%}; {note}"
    passed, also = not small and bound < config.max_increase, {"too_small": small, "needed": needed, "bound": bound}
    return loss_check("leak", (lost, won, n), config.max_increase, passed=passed, note=note, **also)
