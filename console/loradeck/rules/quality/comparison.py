"""Comparisons of a candidate with another release on equal items, in pairs.

The other one is the live release, and the gate's anchor: a fixed release, so that small drops do not add up. Two rules
decide, as the suite's part of the gate says:

- `bound_drop` (what new gates ask): the upper one-sided 95 % bound of the drop must be under `max_drop`. A candidate
  that loses `max_drop` passes once in twenty, whatever share of items the two differ on.
- without: the drop itself must not be above `max_drop`. A candidate that loses exactly that passes about half the time.

Either is worth something only on a suite that would show such a drop, so one with too few items fails.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from loradeck.rules.quality.statistics import (
    ALPHA,
    drop_bound,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_items,
    visible_drop,
)
from loradeck.schemas.attestation import CheckResult, EvaluationReport, ItemResult
from loradeck.schemas.gate import SuiteGate

NAMED = 4
"""Slices that a note names; the others are counted."""


def items_for_drop(max_drop: float, discordant: float) -> int:
    """Number of items from which a limit of a drop can be decided; 1 where it compares nothing or forbids any."""
    return paired_items(max_drop, discordant) if 0 < max_drop < 1 else 1


def items_to_fail(slices: int) -> int:
    """The fewest items of a slice, among so many, that are seen to be lost where all of them are."""
    return math.floor(math.log2(slices / ALPHA)) + 1  # McNemar's p of n lost and none won is 2^-n


def within(lost: int, won: int, n: int, part: SuiteGate) -> bool:
    """Tells whether a comparison of n items, so many of them lost and won, is within the limit of a suite's gate."""
    if part.bound_drop:
        return drop_bound(lost, won, n) < part.max_drop
    return not n or (lost - won) / n <= part.max_drop


def without_copies(report: EvaluationReport, copies: Mapping[str, str]) -> EvaluationReport:
    """The report with one item for all that ask the same: right where all of them are, and as slow as the slowest.

    246 copies of one prompt are one item: their answers are equal, and say no more than one does.

    `copies`: an item that asks what an earlier one asks -> the first that does.
    """
    if not copies:
        return report
    groups: dict[str, list[ItemResult]] = {}
    for item in report.items:
        groups.setdefault(copies.get(item.id, item.id), []).append(item)
    items = tuple(
        group[0].model_copy(
            update={
                "id": first,
                "exact": all(item.exact for item in group),
                "valid": all(item.valid for item in group),
                "ms": max((item.ms for item in group if item.ms is not None), default=None),
            }
        )
        for first, group in groups.items()
    )
    counts = {"n": len(items), "exact": sum(i.exact for i in items), "valid": sum(i.valid for i in items)}
    return report.model_copy(update={"items": items, **counts})


def drop_check(
    report: EvaluationReport, other: EvaluationReport, part: SuiteGate, discordant: float, name: str = "drop"
) -> CheckResult:
    """Checks the net share of items lost against another release, over the items that both answered."""
    lost, won, n = _counts(_pairs(report, other))
    value, p = ((lost - won) / n if n else 0.0), mcnemar(lost, won)
    # Never the measured share alone: where by luck no pair differs, every drop would count as visible.
    visible = visible_drop(n, max(discordant, (lost + won) / n)) if n else None
    bound = drop_bound(lost, won, n) if part.bound_drop else None
    needed = items_for_drop(part.max_drop, discordant)
    small, passes = n < needed, within(lost, won, n, part)
    if small:
        carried = visible_drop(n, discordant)
        note = f"suite too small: {n} shared items, {needed} are needed to see a drop of {part.max_drop:.1%}"
        note += f"; they carry one of {carried:.2%}" if carried is not None else ""
    else:
        note = _note(part.max_drop, bound, within=passes, value=value, p=p)
    if report.engine != other.engine:
        one, before = (build.key if build is not None else "in process" for build in (report.engine, other.engine))
        note = "; ".join(filter(None, (note, f"answered by another build: {one}, and {before} then")))
    undecided = {"too_small": small, "needed": needed, "visible": visible, "bound": bound}
    passed = not small and passes
    return loss_check(name, (lost, won, n), part.max_drop, passed=passed, note=note, suite=part.suite, **undecided)


def loss_check(
    name: str, counts: tuple[int, int, int], threshold: float, *, passed: bool, note: str, **also: Any
) -> CheckResult:
    """A check of the net share lost, (lost - won) of n, with its interval and McNemar's p unless another is given.

    `counts`: lost, won and n. `also`: further fields of the result.
    """
    lost, won, n = counts
    low, high = paired_bootstrap(lost, won, n)
    fields: dict[str, Any] = {"p": mcnemar(lost, won)} | also
    return CheckResult(
        name=name,
        passed=passed,
        value=(lost - won) / n if n else 0.0,
        threshold=threshold,
        n=n,
        low=low,
        high=high,
        note=note,
        lost=lost,
        won=won,
        **fields,
    )


def slices_check(
    report: EvaluationReport, other: EvaluationReport, part: SuiteGate, slices: Mapping[str, str], name: str = "slices"
) -> CheckResult:
    """Checks each slice of the suite by itself. The figures are those of the worst one, which the note names.

    A slice fails that is seen to lose (McNemar's test, by Holm's method at 5 % over all slices), and loses more than
    `max_drop`: of candidates that lose nothing one in twenty fails at most, however many slices there are. One with
    fewer items than `min_slice` is undecided, so that it fails too. So is one that could not fail: where all that the
    other release had right there is lost, that is more than `max_drop`, and would still not be seen.

    `slices`: an item -> its slice. Those without one are in none.
    """
    pairs = _pairs(report, other)
    counts = {
        one: _counts({i: pair for i, pair in pairs.items() if slices.get(i) == one})
        for one in sorted(set(slices.values()))
    }
    ps = dict(zip(counts, holm([mcnemar(lost, won) for lost, won, _ in counts.values()]), strict=True))
    drops = {one: (lost - won) / n if n else 0.0 for one, (lost, won, n) in counts.items()}
    fails = [one for one in counts if ps[one] < ALPHA and drops[one] > part.max_drop]
    needed = max(part.min_slice or 1, items_to_fail(len(counts)))
    right = Counter(slices.get(item) for item, (was, _) in pairs.items() if was)
    small = {one: n for one, (_, _, n) in counts.items() if n < (part.min_slice or 1)}
    for one, (_, _, n) in counts.items():
        if right[one] < items_to_fail(len(counts)) and right[one] > n * part.max_drop:
            small.setdefault(one, right[one])
    worst = min(counts, key=lambda one: (ps[one], -drops[one], one))
    lost, won, n = counts[worst]
    note = f"worst of {len(counts)} slices: {worst}, {lost} lost and {won} won of {n}, p {ps[worst]:.3f} over all"
    if small:
        few = ", ".join(f"{one} {n}" for one, n in list(small.items())[:NAMED])
        note += f"; too small: {few}{' ...' * (len(small) > NAMED)}; {needed} are needed of each"
    undecided = {"too_small": bool(small) and not fails, "needed": needed, "p": ps[worst]}
    passed = not fails and not small
    return loss_check(name, counts[worst], part.max_drop, passed=passed, note=note, suite=part.suite, **undecided)


def _pairs(report: EvaluationReport, other: EvaluationReport) -> dict[str, tuple[bool, bool]]:
    """The items that both answered -> whether the other one and the candidate had them right."""
    before = {i.id: i.exact for i in other.items}
    return {i.id: (before[i.id], i.exact) for i in report.items if i.id in before}


def _counts(pairs: Mapping[str, tuple[bool, bool]]) -> tuple[int, int, int]:
    """Numbers of items lost, won and compared."""
    lost = sum(was and not now for was, now in pairs.values())
    return lost, sum(now and not was for was, now in pairs.values()), len(pairs)


def _note(max_drop: float, bound: float | None, *, within: bool, value: float, p: float) -> str:
    if bound is not None and not within:
        why = "" if value > max_drop else ", which more items may rule out"
        return f"a drop of {bound:.1%} is not ruled out (95 %){why}"
    if not within and p >= ALPHA:
        return f"may be chance (p {p:.2f}): more items would tell"
    seen = f"a drop was seen (p {p:.3f}), and is within the limit" if within and value > 0 and p < ALPHA else ""
    if bound is not None:
        return f"at most {bound:.1%} lost, at 95 % confidence" + (f"; {seen}" if seen else "")
    return seen
