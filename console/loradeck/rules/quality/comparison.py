"""Comparisons of a candidate with another release on equal items, in pairs.

The other one is the live release, and the gate's anchor: a fixed release, so that small drops do not add up. Two rules
decide, as the suite's part of the gate says:

- `bound_drop` (what new gates ask): the upper one-sided 95 % bound of the drop must be under `max_drop`. A candidate
  that loses `max_drop` passes once in twenty, whatever share of items the two differ on. Further tries on a suite pay
  for the choice among them (`tries`).
- without: the drop itself must not be above `max_drop`. A candidate that loses exactly that passes about half the time.

Either is worth something only on a suite that would show such a drop, so one with too few items fails.

Near copies of a question are answered alike, so that ten of them are no ten pieces of evidence. They are a cluster,
which counts as one item: it is lost by the share of its items that are. This is the mean of cluster means, each cluster
being drawn as one unit (Cochran, Sampling Techniques, 1977, section 9A.2), and whatever is alike within a cluster, it
varies no more than as many items would. Neither may the drop by items be above the limit: by clusters alone, a
candidate that loses a form which is a third of the items would pass. p is that of the sign test over clusters.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

from loradeck.rules.quality.statistics import (
    ALPHA,
    drop_bound,
    holm,
    mcnemar,
    paired_bootstrap,
    paired_items,
    visible_drop,
)
from loradeck.rules.quality.tries import level
from loradeck.schemas.attestation import CheckResult, EvaluationReport, ItemResult
from loradeck.schemas.gate import SuiteGate
from loradeck.schemas.suite import Groups

NAMED = 4
"""Slices that a note names; the others are counted."""


def items_for_drop(max_drop: float, discordant: float) -> int:
    """Number of items from which a limit of a drop can be decided; 1 where it compares nothing or forbids any."""
    return paired_items(max_drop, discordant) if 0 < max_drop < 1 else 1


def items_to_fail(slices: int) -> int:
    """The fewest items of a slice, among so many, that are seen to be lost where all of them are."""
    return math.floor(math.log2(slices / ALPHA)) + 1  # McNemar's p of n lost and none won is 2^-n


class Counts(NamedTuple):
    """Pairs that are lost, won and compared; of clusters, also parts of one are lost or won."""

    lost: float
    won: float
    n: int

    @property
    def drop(self) -> float:
        """Net share lost; 0 where nothing is compared."""
        return (self.lost - self.won) / self.n if self.n else 0.0


class Pairs(NamedTuple):
    """Two releases' answers to equal items, counted by item and by cluster of near copies.

    `worse`, `better`: clusters of which more items are lost than won, and the reverse.
    """

    items: Counts
    clusters: Counts
    worse: int
    better: int

    @classmethod
    def of(cls, outcomes: Mapping[str, tuple[bool, bool]], near: Mapping[str, str]) -> Self:
        """Counts pairs.

        `outcomes`: item -> whether the other release and the candidate had it right. `near`: as of `Groups`.
        """
        clusters = defaultdict[str, list[tuple[bool, bool]]](list)
        for item, pair in outcomes.items():
            clusters[near.get(item, item)].append(pair)
        own = [(pairs.count((True, False)), pairs.count((False, True)), len(pairs)) for pairs in clusters.values()]
        lost, won = (math.fsum(one[at] / one[2] for one in own) for at in (0, 1))
        return cls(
            items=Counts(sum(lost for lost, _, _ in own), sum(won for _, won, _ in own), len(outcomes)),
            clusters=Counts(lost, won, len(own)),
            worse=sum(lost > won for lost, won, _ in own),
            better=sum(won > lost for lost, won, _ in own),
        )

    @property
    def p(self) -> float:
        """McNemar's exact one-sided p, by cluster."""
        return mcnemar(self.worse, self.better)

    @property
    def deciding(self) -> Counts:
        """The counts by which more is lost, those by cluster where both say the same."""
        return max((self.clusters, self.items), key=lambda counts: counts.drop)

    def bound(self, alpha: float = ALPHA) -> float:
        """Upper one-sided bound of the drop at a level, by cluster, and never under the drop by items."""
        return max(drop_bound(*self.clusters, alpha), self.items.drop)

    @property
    def interval(self) -> tuple[float, float]:
        """Bootstrap interval of the deciding drop, over clusters."""
        by, n = self.deciding, self.clusters.n
        return paired_bootstrap(by.lost * n / by.n, by.won * n / by.n, n) if n else (-1.0, 1.0)


def within(pairs: Pairs, part: SuiteGate, alpha: float = ALPHA) -> bool:
    """Tells whether a comparison is within the limit of a suite's gate, whose bound has this level."""
    return pairs.bound(alpha) < part.max_drop if part.bound_drop else pairs.deciding.drop <= part.max_drop


def counted(n: int, clusters: int) -> str:
    """Says of how many items a note speaks, and how many of them count where some are near copies."""
    return f"{n}, of which {clusters} count (near copies are one)" if clusters < n else str(n)


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
    report: EvaluationReport,
    other: EvaluationReport,
    part: SuiteGate,
    discordant: float,
    near: Mapping[str, str],
    name: str = "drop",
    tried: int = 1,
) -> CheckResult:
    """Checks the net share of items lost against another release, over the items that both answered.

    `near`: as of `Groups`. `tried`: which try on the suite the candidate is.
    """
    alpha = level(tried)
    pairs = Pairs.of(_outcomes(report, other), near)
    n, by = pairs.clusters.n, pairs.deciding
    # Never the measured share alone: where by luck no pair differs, every drop would count as visible.
    visible = visible_drop(n, max(discordant, (by.lost + by.won) / by.n)) if n else None
    bound = pairs.bound(alpha) if part.bound_drop else None
    needed = items_for_drop(part.max_drop, discordant)
    small, passes = n < needed, within(pairs, part, alpha)
    if small:
        note = f"suite too small: {pairs.items.n} shared items"
        note += f", {n} of which count (near copies are one)" if n < pairs.items.n else ""
        note += f", {needed} are needed to see a drop of {part.max_drop:.1%}"
        note += f", and {enough(needed, pairs.items.n, n)} with as many near copies" if 0 < n < pairs.items.n else ""
        carried = visible_drop(n, discordant)
        note += f"; they carry one of {carried:.2%}" if carried is not None else ""
    else:
        note = _note(part.max_drop, bound, alpha, within=passes, value=by.drop, p=pairs.p)
    if report.engine != other.engine:
        one, before = (build.key if build is not None else "in process" for build in (report.engine, other.engine))
        note = "; ".join(filter(None, (note, f"answered by another build: {one}, and {before} then")))
    undecided = {"too_small": small, "needed": needed, "visible": visible, "bound": bound}
    passed = not small and passes
    tries = {"tried": tried, "level": alpha if bound is not None else None} if tried > 1 else {}
    also = _by_cluster(pairs) | undecided | tries
    return loss_check(name, _whole(pairs), part.max_drop, passed=passed, note=note, suite=part.suite, **also)


def enough(needed: int, items: int, clusters: int) -> int:
    """The number of items that would do where as many of them are near copies as here, `clusters` of them counting."""
    return math.ceil(needed * items / clusters)


def _whole(pairs: Pairs) -> tuple[int, int, int]:
    """Numbers of items lost, won and compared."""
    return int(pairs.items.lost), int(pairs.items.won), pairs.items.n


def _by_cluster(pairs: Pairs) -> dict[str, Any]:
    """The fields of a check's result that follow from clusters."""
    low, high = pairs.interval
    effective = pairs.clusters.n if pairs.clusters.n < pairs.items.n else None
    return {"value": pairs.deciding.drop, "low": low, "high": high, "p": pairs.p, "effective": effective}


def loss_check(
    name: str, counts: tuple[int, int, int], threshold: float, *, passed: bool, note: str, **also: Any
) -> CheckResult:
    """A check of the net share lost, (lost - won) of n, with its interval and McNemar's p unless another is given.

    `counts`: lost, won and n. `also`: further fields of the result.
    """
    lost, won, n = counts
    low, high = paired_bootstrap(lost, won, n)
    own = {"value": Counts(*counts).drop, "low": low, "high": high, "p": mcnemar(lost, won)}
    fields: dict[str, Any] = own | also
    return CheckResult(name=name, passed=passed, threshold=threshold, n=n, note=note, lost=lost, won=won, **fields)


def slices_check(
    report: EvaluationReport, other: EvaluationReport, part: SuiteGate, groups: Groups, name: str = "slices"
) -> CheckResult:
    """Checks each slice of the suite by itself. The figures are those of the worst one, which the note names.

    A slice fails that is seen to lose (McNemar's test, by Holm's method at 5 % over all slices), and loses more than
    `max_drop`: of candidates that lose nothing one in twenty fails at most, however many slices there are. One with
    fewer items than `min_slice` is undecided, so that it fails too. So is one that could not fail: where all that the
    other release had right there is lost, that is more than `max_drop`, and would still not be seen. Near copies in a
    slice are one item.

    `groups`: the slices of the suite's items. Those without one are in none.
    """
    outcomes = _outcomes(report, other)
    inside = {
        one: {item: pair for item, pair in outcomes.items() if groups.slices.get(item) == one}
        for one in sorted(set(groups.slices.values()))
    }
    pairs = {one: Pairs.of(its, groups.near) for one, its in inside.items()}
    ps = dict(zip(pairs, holm([of.p for of in pairs.values()]), strict=True))
    drops = {one: of.deciding.drop for one, of in pairs.items()}
    fails = [one for one in pairs if ps[one] < ALPHA and drops[one] > part.max_drop]
    needed, least = max(part.min_slice or 1, items_to_fail(len(pairs))), part.min_slice or 1
    small = {one: of.clusters.n for one, of in pairs.items() if of.clusters.n < least}
    for one, its in inside.items():
        right = distinct((item for item, (was, _) in its.items() if was), groups.near)
        if right < items_to_fail(len(pairs)) and right > pairs[one].clusters.n * part.max_drop:
            small.setdefault(one, right)
    worst = min(pairs, key=lambda one: (ps[one], -drops[one], one))
    lost, won, n = _whole(pairs[worst])
    of = counted(n, pairs[worst].clusters.n)
    note = f"worst of {len(pairs)} slices: {worst}, {lost} lost and {won} won of {of}, p {ps[worst]:.3f} over all"
    if small:
        few = ", ".join(f"{one} {n}" for one, n in list(small.items())[:NAMED])
        note += f"; too small: {few}{' ...' * (len(small) > NAMED)}; {needed} are needed of each"
    undecided = {"too_small": bool(small) and not fails, "needed": needed, "p": ps[worst]}
    also = _by_cluster(pairs[worst]) | undecided
    passed = not fails and not small
    return loss_check(name, (lost, won, n), part.max_drop, passed=passed, note=note, suite=part.suite, **also)


def distinct(items: Iterable[str], near: Mapping[str, str]) -> int:
    """The number of items, near copies of each other being one. `near`: as of `Groups`."""
    return len({near.get(item, item) for item in items})


def _outcomes(report: EvaluationReport, other: EvaluationReport) -> dict[str, tuple[bool, bool]]:
    """The items that both answered -> whether the other one and the candidate had them right."""
    before = {i.id: i.exact for i in other.items}
    return {i.id: (before[i.id], i.exact) for i in report.items if i.id in before}


def _note(max_drop: float, bound: float | None, alpha: float, *, within: bool, value: float, p: float) -> str:
    sure = f"{100 * (1 - alpha):.4g} %"
    if bound is not None and not within:
        why = "" if value > max_drop else ", which more items may rule out"
        return f"a drop of {bound:.1%} is not ruled out ({sure}){why}"
    if not within and p >= ALPHA:
        return f"may be chance (p {p:.2f}): more items would tell"
    seen = f"a drop was seen (p {p:.3f}), and is within the limit" if within and value > 0 and p < ALPHA else ""
    if bound is not None:
        return f"at most {bound:.1%} lost, at {sure} confidence" + (f"; {seen}" if seen else "")
    return seen
