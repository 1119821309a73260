"""Gates: the scores that a candidate must reach on its suites, alone and against the live release on equal items.

A suite with too few items for its own threshold is a failed check (`suite_too_small`), never a lucky pass. How two
releases are compared is `comparison`.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.rules.moves.rollback_target import PointerFacts, ruled_out
from loradeck.rules.quality import arm_comparison, gate_judge, leak
from loradeck.rules.quality.comparison import (
    distinct,
    drop_check,
    enough,
    items_for_drop,
    items_to_fail,
    slices_check,
    without_copies,
)
from loradeck.rules.quality.review import EdgesOf, Signed, review_check
from loradeck.rules.quality.statistics import items_to_bound, lower_bound, percentile, visible_drop, wilson
from loradeck.schemas.attestation import CheckResult, EvaluationReport, GateResult, LeakReport
from loradeck.schemas.candidate import ComparisonResult
from loradeck.schemas.gate import GateConfig, SuiteGate
from loradeck.schemas.ids import Digest, digest_of, short
from loradeck.schemas.judge_report import JudgeReport
from loradeck.schemas.log import PointerState
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.suite import Groups, ItemKind

P95 = 0.95

SHOWN = 20
"""Items that a refusal names; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class GateRecords:
    """The records that a gate is judged by: reports by suite, of the candidate and of the live release.

    `canaries`: suite -> ids of its canary items. `groups`: suite -> how its items belong together. `reviews`: signed
    reviews of this candidate on this route, oldest first. `stage`: why the candidate has not passed the route before
    this one; '' if it has. `imported`: who sent which of the reports, of those that no job made. `expired`: the
    releases whose reports are too old to count. `looks`: how many releases were evaluated on the gate's own suite.
    `tried`: suite -> which try on it the candidate is since the live release went live; 1 where it is not known.
    `authors`: who had the candidate made. `anchor`: the gate's anchor and its reports by suite; None if it has none, or
    it is the candidate or the live release itself. `comparison`: the candidate's newest A/B against the live release,
    where the gate asks. `leak`: its newest report on rows that it reproduces.
    `judged`: its newest report of the judge that the gate names.
    """

    reports: Mapping[Digest, EvaluationReport]
    live: Mapping[Digest, EvaluationReport] = field(default_factory=dict)
    canaries: Mapping[Digest, tuple[str, ...]] = field(default_factory=dict)
    reviews: Sequence[Signed] = ()
    edges: EdgesOf = field(default_factory=dict)
    groups: Mapping[Digest, Groups] = field(default_factory=dict)
    anchor: tuple[Digest, Mapping[Digest, EvaluationReport]] | None = None
    stage: str = ""
    comparison: ComparisonResult | None = None
    leak: LeakReport | None = None
    judged: JudgeReport | None = None
    imported: Sequence[str] = ()
    expired: Sequence[str] = ()
    looks: int | None = None
    tried: Mapping[Digest, int] = field(default_factory=dict)
    authors: frozenset[str] = frozenset()


def is_expired(at_ms: int, config: GateConfig, now_ms: int) -> bool:
    """Tells whether a report that was attested then does not count any more. Times are milliseconds since 1970 UTC."""
    return bool(config.max_age_days) and now_ms - at_ms > config.max_age_days * DAY_MS


def _age_check(days: int, expired: Sequence[str]) -> CheckResult:
    old = f"evaluated more than {days} days ago: {', '.join(expired)}; evaluate again" if expired else ""
    return _stage_check("age", old, f"every evaluation is of the last {days} days")


def is_reported(config: GateConfig, records: GateRecords) -> bool:
    """Tells whether the candidate has all reports that the gate asks for: on suites, on its leaks, by its judge."""
    leaks = config.leak is None or records.leak is not None
    judged = config.judge is None or records.judged is not None
    return leaks and judged and all(part.suite in records.reports for part in config.suites)


IMPORTED = "imported"
"""The name of the check that fails where people sent reports, for which a promote needs a reason."""

FROM_ANCHOR = "drop from anchor"
"""The name of the check against the gate's anchor; its n is 0 where the anchor was not evaluated on the suite."""


def _imported_check(imported: Sequence[str]) -> CheckResult:
    n = len(imported)
    return CheckResult(
        name=IMPORTED,
        passed=False,
        value=n,
        threshold=0,
        n=n,
        low=n,
        high=n,
        note=f"reports that no job made: {', '.join(imported)}",
        unit="people",
    )


def judge(release: Digest, live: Digest | None, config: GateConfig, records: GateRecords) -> GateResult:
    """Judges a candidate that has a report on every suite of the gate. `live` is the live release, None if there is
    none.

    It is compared with the live release only if that one has a report on every suite that compares; otherwise the
    result is `against` nothing, and no promote accepts it for a comparison.

    Raises: Refused: bad_report: counts that contradict the items, or a report of another release or suite.
    """
    comparing = [part.suite for part in config.suites if part.max_drop < 1]
    compared = live is not None and all(suite in records.live for suite in comparing)
    checks: list[CheckResult] = []
    for part in config.suites:
        groups = records.groups.get(part.suite, Groups())
        copies, near, sliced = groups.copies, groups.near, part.min_slice is not None and bool(groups.slices)
        whole = _measured(records.reports[part.suite], release, part)
        report = without_copies(whole, copies)
        checks += _alone(report, part, near)
        tried = records.tried.get(part.suite, 1)
        if part.canaries:
            by_id, canaries = {item.id: item.exact for item in whole.items}, records.canaries.get(part.suite, ())
            right = sum(by_id.get(item, False) for item in canaries)
            checks.append(_share_check("canaries", right, len(canaries), 1.0, part.suite))
        if compared and part.max_drop < 1:
            before = without_copies(_measured(records.live[part.suite], live, part), copies)
            checks.append(drop_check(report, before, part, config.discordant, near, tried=tried))
            if sliced:
                checks.append(slices_check(report, before, part, groups))
        if records.anchor is not None and part.max_drop < 1:
            anchor, reports = records.anchor
            of = reports.get(part.suite)
            steady = without_copies(_measured(of, anchor, part), copies) if of is not None else None
            checks.append(_anchor_check(report, anchor, steady, part, config.discordant, near, tried))
            if sliced and steady is not None:
                checks.append(slices_check(report, steady, part, groups, "slices from anchor"))
    if config.max_age_days:
        checks.append(_age_check(config.max_age_days, records.expired))
    if config.after is not None:
        checks.append(_stage_check(f"after {config.after}", records.stage, f"attested on {config.after}"))
    if config.review is not None:
        checks.append(
            review_check(records.reports[config.suite], config.review, records.reviews, records.authors, records.edges)
        )
    if config.compare is not None:
        checks.append(arm_comparison.ab_check(config.compare, records.comparison))
    if config.leak is not None and records.leak is not None:
        checks.append(leak.check(config.leak, records.leak))
    if config.judge is not None and records.judged is not None:
        checks += gate_judge.checks(config.judge, records.judged, live)
    if records.imported:
        checks.append(_imported_check(records.imported))
    return GateResult(
        release=release,
        against=live if compared else None,
        anchor=records.anchor[0] if records.anchor is not None else None,
        looks=records.looks,
        suite=config.suite,
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
        gate=digest_of(config),
    )


def anchored(gate: GateConfig, standing: Digest | None, live: Digest | None) -> GateConfig:
    """The gate with its anchor: the one that it names, else the one that stands, else the attested live release where a
    suite bounds its drop.
    """
    anchor = gate.anchor or standing or (live if gate.is_anchored else None)
    return gate.model_copy(update={"anchor": anchor}) if anchor is not None else gate


def _anchor_check(
    report: EvaluationReport,
    anchor: Digest,
    of: EvaluationReport | None,
    part: SuiteGate,
    discordant: float,
    near: Mapping[str, str],
    tried: int,
) -> CheckResult:
    if of is not None:
        return drop_check(report, of, part, discordant, near, FROM_ANCHOR, tried)
    note = f"the anchor {short(anchor)} was not evaluated on suite {short(part.suite)}"
    return CheckResult(
        name=FROM_ANCHOR,
        passed=False,
        value=0.0,
        threshold=part.max_drop,
        n=0,
        low=-1.0,
        high=1.0,
        note=note,
        suite=part.suite,
    )


def require_big_enough(
    config: GateConfig, items: Mapping[Digest, int], groups: Mapping[Digest, Groups] | None = None
) -> None:
    """Checks that each suite, and each slice, has enough items to decide the gate.

    Args:
        items: suite -> number of its items.
        groups: suite -> how they belong together; those that ask the same, or nearly so, are counted once.

    Raises: Refused: suite_too_small, with the number of items that are needed.
    """
    for part in config.suites:
        known = (groups or {}).get(part.suite, Groups())
        asked = items[part.suite] - len(known.copies)
        n = asked - len(known.near)
        if part.min_slice is not None:
            _require_slices(part, part.min_slice, known)
        for what, needed in (
            (f"tell {part.min_exact:.1%} exact", _needed(part.min_exact, bound=part.bound)),
            (f"tell {part.min_valid:.1%} valid", items_needed(part.min_valid)),
            (f"see a drop of {part.max_drop:.1%}", items_for_drop(part.max_drop, config.discordant)),
            ("tell a 95th percentile", items_needed(P95) if part.max_p95_ms is not None else 1),
        ):
            if n < needed:
                larger, repeats = "a larger suite", ""
                if known.near:
                    repeats = (
                        f": {len(known.near)} of its {asked} items nearly repeat another, and count with it as one"
                    )
                    larger = f"one of {enough(needed, asked, n)} items like these, or with {needed - n} other questions"
                raise Refused(
                    "suite_too_small",
                    f"suite too small: {n} items, {needed} are needed to {what}",
                    detail=f"suite {short(part.suite)}{repeats}",
                    fix=f"register {larger}, or ask for less" + _carried(n, config.discordant),
                    context={"suite": part.suite, "items": n, "needed": needed},
                )


def require_disjoint(gate: Groups, selection: Groups, names: tuple[str, str]) -> None:
    """Checks that a gate's suite and one for selection ask nothing that the other asks.

    `names`: of the two suites, for people.

    Raises: Refused: selection_suite, with the ids of the items.
    """
    both = sorted(gate.asked[asked] for asked in gate.asked.keys() & selection.asked.keys())
    if both:
        raise Refused(
            "selection_suite",
            f"{len(both)} items of {names[0]} are among those of {names[1]}, by which releases are selected",
            detail=", ".join(both[:SHOWN]) + (f" and {len(both) - SHOWN} more" if len(both) > SHOWN else ""),
            fix="leave them out of one of the two: a release looks better than it is on items that it was chosen by",
            context={"items": both[:SHOWN]},
        )


def _require_slices(part: SuiteGate, least: int, groups: Groups) -> None:
    """Refuses slices of fewer items than `least`, and those that would pass though all of their items were lost."""
    inside = defaultdict[str, list[str]](list)
    for item, slice in groups.slices.items():
        if item not in groups.copies:
            inside[slice].append(item)
    sizes = {slice: distinct(its, groups.near) for slice, its in inside.items()}
    needed = max(least, items_to_fail(len(sizes))) if sizes else least
    small = {slice: n for slice, n in sizes.items() if n < needed}
    if small:
        slice, n = min(small.items(), key=lambda one: (one[1], one[0]))
        lower = ", or lower min_slice" if needed == least else ": fewer would pass though all of them were lost"
        raise Refused(
            "suite_too_small",
            f"slice too small: {n} items of {slice}, {needed} are needed of each slice",
            detail=f"suite {short(part.suite)}: {len(small)} of {len(sizes)} slices are too small",
            fix=f"register a suite with more of them, or join slices{lower}",
            context={"suite": part.suite, "items": n, "needed": needed},
        )


def _carried(n: int, discordant: float) -> str:
    carried = visible_drop(n, discordant)
    return f"; {n} items carry a max_drop of {carried:.3f} or more" if carried is not None and carried < 1 else ""


def items_needed(threshold: float) -> int:
    """Items from which one wrong answer alone does not miss the threshold; one, for thresholds 0 and 1."""
    return 1 if threshold in (0.0, 1.0) else math.ceil(round(1 / (1 - threshold), 9))


def _needed(threshold: float, *, bound: bool) -> int:
    return items_to_bound(threshold) if bound else items_needed(threshold)


def _sound(report: EvaluationReport, release: Digest | None, part: SuiteGate) -> EvaluationReport:
    if (report.suite, report.release) != (part.suite, release):
        raise Refused(
            "bad_report",
            f"the report is not of {short(release)} on this suite",
            detail=f"release {short(report.release)}, suite {short(report.suite)}; the gate asks for "
            f"{short(part.suite)}",
        )
    counts = (len(report.items), sum(i.exact for i in report.items), sum(i.valid for i in report.items))
    if (report.n, report.exact, report.valid) != counts or len({i.id for i in report.items}) != len(report.items):
        raise Refused(
            "bad_report",
            f"the counts in the report of {short(report.release)} do not agree with its items",
            fix="evaluate it again",
        )
    return report


def counts(report: EvaluationReport) -> bool:
    """Tells whether a report counts: one whose choices were made by the mean over their tokens is not compared."""
    return all(item.kind is not ItemKind.CHOICE or item.acc_norm is not None for item in report.items)


def _measured(report: EvaluationReport, release: Digest | None, part: SuiteGate) -> EvaluationReport:
    """The report, with choices right or wrong by the accuracy that the gate names. Raises as `_sound` does."""
    report = _sound(report, release, part)
    if part.choice == "acc":
        return report
    items = tuple(
        item if item.acc_norm is None else item.model_copy(update={"exact": item.acc_norm}) for item in report.items
    )
    return report.model_copy(update={"items": items, "exact": sum(item.exact for item in items)})


def _alone(report: EvaluationReport, part: SuiteGate, near: Mapping[str, str]) -> list[CheckResult]:
    clusters = distinct((item.id for item in report.items), near)
    exact = (
        _bound_check(report, part, near)
        if part.bound
        else _share_check("exact", report.exact, report.n, part.min_exact, part.suite, clusters)
    )
    if any(item.kind is ItemKind.CHOICE for item in report.items):
        note = "; ".join(filter(None, (exact.note, f"choices by {part.choice}")))
        exact = exact.model_copy(update={"note": note})
    checks = [
        exact,
        _share_check("valid", report.valid, report.n, part.min_valid, part.suite, clusters),
    ]
    if part.max_p95_ms is not None:
        checks.append(_latency_check([i.ms for i in report.items if i.ms is not None], part.max_p95_ms, part.suite))
    return checks


def _share_check(
    name: str, k: int, n: int, threshold: float, suite: Digest, clusters: int | None = None
) -> CheckResult:
    """Checks a share. `clusters`: items that count, near copies being one; None: all do."""
    needed, value, count = items_needed(threshold), k / n if n else 0.0, n if clusters is None else clusters
    note = f"suite too small: {_items(n, count)}, {needed} are needed to tell {threshold:.0%}" if count < needed else ""
    return _of_share(name, k, n, threshold, suite, count, passed=value >= threshold, needed=needed, note=note)


def _items(n: int, clusters: int) -> str:
    return f"{n} items" + (f", of which {clusters} count (near copies are one)" if clusters < n else "")


def _of_share(
    name: str, k: int, n: int, threshold: float, suite: Digest, clusters: int, *, passed: bool, needed: int, note: str
) -> CheckResult:
    """A check of a share with its interval. It is passed by no fewer items than are needed."""
    low, high = wilson(k * clusters / n, clusters) if n else wilson(0, 0)
    return CheckResult(
        name=name,
        passed=clusters >= needed and passed,
        value=k / n if n else 0.0,
        threshold=threshold,
        n=n,
        low=low,
        high=high,
        note=note,
        suite=suite,
        too_small=clusters < needed,
        needed=needed,
        effective=clusters if clusters < n else None,
    )


def _bound_check(report: EvaluationReport, part: SuiteGate, near: Mapping[str, str]) -> CheckResult:
    """Checks the exact lower bound of the share (not the share itself) against the threshold.

    Near copies are one item, right where all of them are; the bound of the items alone holds as well.
    """
    clusters = distinct((item.id for item in report.items), near)
    wrong = distinct((item.id for item in report.items if not item.exact), near)
    sure = min(lower_bound(report.exact, report.n), lower_bound(clusters - wrong, clusters))
    needed, note = items_to_bound(part.min_exact), f"at least {sure:.2%} at 95 % confidence"
    if clusters < needed:
        best = lower_bound(clusters, clusters)
        note = f"suite too small: {_items(report.n, clusters)} bound a share at {best:.2%} at best, "
        note += f"{needed} are needed for {part.min_exact:.1%}"
    passed = sure >= part.min_exact
    return _of_share(
        "exact", report.exact, report.n, part.min_exact, part.suite, clusters, passed=passed, needed=needed, note=note
    )


def _latency_check(times: list[float], limit: float, suite: Digest) -> CheckResult:
    needed = items_needed(P95)
    small = len(times) < needed
    value, low, high = percentile(times, P95) if times else (0.0, 0.0, 0.0)
    note = f"suite too small: {len(times)} timed items, {needed} are needed to tell a 95th percentile" if small else ""
    return CheckResult(
        name="p95",
        passed=not small and value <= limit,
        value=value,
        threshold=limit,
        n=len(times),
        low=low,
        high=high,
        note=note,
        suite=suite,
        unit="ms",
        too_small=small,
        needed=needed,
    )


def lacks(release: Digest, route: str, pointer: PointerState | None, facts: PointerFacts) -> str:
    """Why a candidate has not passed an earlier route: it must be attested there and not ruled out; '' if it has."""
    if release not in facts.attested:
        return f"it was never attested on {route}"
    why = ruled_out(release, pointer, facts) if pointer is not None else None
    return f"it is {why} on {route}" if why is not None else ""


def require_stages(tenant: Mapping[str, RouteConfig], route: str, config: GateConfig) -> None:
    """Checks that the route named in `after` exists and that the chain of stages does not lead back.

    Raises: Refused: unknown_route, stages_in_a_circle.
    """
    way, before = [route], config.after
    while before is not None:
        way.append(before)
        if before in way[:-1]:
            raise Refused(
                "stages_in_a_circle",
                "no release could ever pass: each of these routes wants another one passed first",
                detail=" after ".join(way),
                fix="leave `after` out on the first stage",
            )
        if before not in tenant:
            raise Refused(
                "unknown_route",
                f"the earlier stage {before!r} is not a route of this tenant",
                detail=f"it has: {', '.join(sorted(tenant)) or 'none'}",
                fix="set that route first",
            )
        gate = tenant[before].gate
        before = gate.after if gate is not None else None


def _stage_check(name: str, lacking: str, note: str) -> CheckResult:
    """A check that is passed or not. `lacking`: why it is not; '': it is, as the note says."""
    done = float(not lacking)
    return CheckResult(
        name=name,
        passed=not lacking,
        value=done,
        threshold=1.0,
        n=1,
        low=done,
        high=done,
        note=lacking or note,
        unit="stage",
    )
