"""Gates: what a candidate must reach on a suite, alone and against the live release on the same items."""

from __future__ import annotations

import math

from loradeck.rules.errors import Refused
from loradeck.rules.health import Z95, wilson
from loradeck.schemas.attestation import CheckResult, EvaluationReport, GateResult
from loradeck.schemas.ids import short
from loradeck.schemas.route import GateConfig


def judge(report: EvaluationReport, live: EvaluationReport | None, config: GateConfig) -> GateResult:
    """Judges a candidate's report. `live`: the live release's report on the same suite, None where none is live.

    A suite that is too small to tell its threshold is a failed check with a note, never a lucky pass.

    Raises:
        Refused: bad_report: another suite, or counts that do not agree with the items.
    """
    for one in (report, live):
        if one is not None:
            _require_sound(one, config)
    checks = [
        _share_check("exact", sum(i.exact for i in report.items), report.n, config.min_exact),
        _share_check("valid", sum(i.valid for i in report.items), report.n, config.min_valid),
    ]
    if live is not None:
        checks.append(_drop_check(report, live, config.max_drop))
    return GateResult(
        release=report.release,
        against=live.release if live is not None else None,
        suite=config.suite,
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
    )


def items_needed(threshold: float) -> int:
    """Items from which on one wrong answer alone does not miss a threshold under 1. A threshold of 1 or 0: one."""
    return 1 if threshold in (0.0, 1.0) else math.ceil(round(1 / (1 - threshold), 9))


def _require_sound(report: EvaluationReport, config: GateConfig) -> None:
    if report.suite != config.suite:
        raise Refused(
            "bad_report",
            f"the report of {short(report.release)} is on another suite",
            detail=f"suite {short(report.suite)}, the gate asks for {short(config.suite)}",
        )
    counts = (len(report.items), sum(i.exact for i in report.items), sum(i.valid for i in report.items))
    if (report.n, report.exact, report.valid) != counts or len({i.id for i in report.items}) != len(report.items):
        raise Refused(
            "bad_report",
            f"the counts in the report of {short(report.release)} do not agree with its items",
            fix="evaluate it again",
        )


def _share_check(name: str, k: int, n: int, threshold: float) -> CheckResult:
    value = k / n if n else 0.0
    low, high = wilson(k, n)
    needed = items_needed(threshold)
    note = f"suite too small: {n} items, {needed} are needed to tell {threshold:.0%}" if n < needed else ""
    passed = not note and value >= threshold
    return CheckResult(name=name, passed=passed, value=value, threshold=threshold, n=n, low=low, high=high, note=note)


def _drop_check(report: EvaluationReport, live: EvaluationReport, max_drop: float) -> CheckResult:
    """Share of exact answers lost against the live release, over the items both answered; paired."""
    before = {i.id: i.exact for i in live.items}
    pairs = [(before[i.id], i.exact) for i in report.items if i.id in before]
    n = len(pairs)
    lost = sum(was and not now for was, now in pairs)
    won = sum(now and not was for was, now in pairs)
    value = (lost - won) / n if n else 0.0
    low, high = _paired_interval(lost, won, n)
    needed = max(1, math.ceil(round(1 / max_drop, 9))) if max_drop else 1
    note = f"suite too small: {n} shared items, {needed} are needed to tell a drop of {max_drop:.1%}" * (n < needed)
    passed = not note and value <= max_drop
    return CheckResult(name="drop", passed=passed, value=value, threshold=max_drop, n=n, low=low, high=high, note=note)


def _paired_interval(lost: int, won: int, n: int) -> tuple[float, float]:
    """95 % interval of (lost - won) / n for paired answers, after Agresti and Min (half a pair added per cell)."""
    if n == 0:
        return (-1.0, 1.0)
    b, c, m = lost + 0.5, won + 0.5, n + 2
    middle = (b - c) / m
    half = Z95 * math.sqrt(max(0.0, (b + c) - (b - c) ** 2 / m)) / m
    return (max(-1.0, middle - half), min(1.0, middle + half))
