"""A judge's verdicts on a candidate: what they come to, how steady they are, and whether they count at a gate.

- Two answers are shown in both orders, since judges prefer places (Zheng et al., arXiv:2306.05685, section 3.3). A
  winner counts where both orders name it; where each order names another one, the pair is flipped, and undecided.
- That longer answers pass more often is no proof of a bias, since they may be better. So it is measured and shown, as
  the correlation of passing with words, and the share of winners that are longer.
- Verdicts count only where the judge agrees with people: the lower end of Krippendorff's alpha between it and what more
  than half of the raters chose, on items of the same kind, must reach a floor. Below it the judge decides nothing,
  neither for a candidate nor against it.
- Where more than `MOST_UNCLEAR` of its replies to a candidate are no verdict, the check fails, as where it cannot be
  reached: such replies are the candidate's doing as well, whose answers it reads. Without people it decides nothing.
"""

import math
from collections.abc import Sequence
from typing import Literal

from loradeck.rules.data.preferences import FLOORS
from loradeck.rules.quality import figures
from loradeck.rules.quality.agreement import alpha, majority
from loradeck.rules.quality.comparison import loss_check
from loradeck.rules.quality.judge import Side
from loradeck.rules.quality.statistics import Z95, drop_bound, upper_bound
from loradeck.schemas.attestation import CheckResult
from loradeck.schemas.gate import JudgeGate
from loradeck.schemas.ids import Digest, short
from loradeck.schemas.judge_report import Correlation, Held, JudgeReport
from loradeck.schemas.preference import TIE, Campaign

MOST_UNCLEAR = 0.1
"""Share of replies without a verdict above which a judge's check fails."""

Pair = Literal["won", "lost", "tie", "flipped", "unclear"]


def settled(own_first: Side | None, own_second: Side | None) -> Pair:
    """Says what two replies on a pair come to: with the candidate's answer shown first, and with it shown second."""
    if own_first is None or own_second is None:
        return "unclear"
    if "tie" in (own_first, own_second):
        return "tie"
    if own_first == own_second:
        return "flipped"
    return "won" if own_first == "first" else "lost"


def correlation(verdicts: Sequence[tuple[bool, int]]) -> Correlation:
    """Correlates passing with a number, such as that of words, with Fisher's interval."""
    n = len(verdicts)
    xs, ys = [float(passed) for passed, _ in verdicts], [float(words) for _, words in verdicts]
    if n < 4 or len({*xs}) < 2 or len({*ys}) < 2:
        return Correlation(r=None, low=-1.0, high=1.0, n=n)
    mean_x, mean_y = math.fsum(xs) / n, math.fsum(ys) / n
    both = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    spread = math.fsum((x - mean_x) ** 2 for x in xs) * math.fsum((y - mean_y) ** 2 for y in ys)
    r = max(-1.0, min(1.0, both / math.sqrt(spread)))
    z, half = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r))), Z95 / math.sqrt(n - 3)
    return Correlation(r=r, low=math.tanh(z - half), high=math.tanh(z + half), n=n)


def chosen_by_people(campaign: Campaign, rubric: str) -> dict[str, str]:
    """Returns what more than half of the raters chose of each item by a rubric with this text; others are left out."""
    named = {version for version, one in campaign.rubrics.items() if one.text == rubric}
    by_item: dict[str, list[str]] = {}
    for one in campaign.judgements:
        if one.rubric in named:
            by_item.setdefault(one.item, []).append(one.choice)
    found = {item: majority(choices) for item, choices in by_item.items()}
    return {item: choice for item, choice in found.items() if choice is not None}


def in_words_of_people(said: bool | Pair | None) -> str | None:
    """Says a verdict on an item of people's in their words, `a` being the own answer of a pair; None: it is none."""
    words = {True: "good", False: "bad", None: None, "won": "a", "lost": "b", "unclear": None}
    return words.get(said, TIE)


def held(kind: Literal["answer", "pair"], people: Sequence[str], judge: Sequence[bool | Pair | None]) -> Held:
    """Measures how far a judge agrees with people on items of one kind; those without a verdict are left out."""
    both = [(choice, word) for choice, said in zip(people, judge, strict=True) if (word := in_words_of_people(said))]
    found, differ = alpha(both), sum(choice != word for choice, word in both)
    if found.alpha is not None and differ:
        # Few disagreements vary more than the jackknife says: their share has an exact bound as well.
        most = (1 - found.alpha) * upper_bound(differ, found.n) * found.n / differ
        found = found.model_copy(update={"low": max(-1.0, min(found.low, 1 - most))})
    return Held(kind=kind, agreement=found)


def checks(config: JudgeGate, report: JudgeReport, live: Digest | None) -> list[CheckResult]:
    """Checks a candidate by its judge's verdicts: the share that it passes, and the pairs with the live release.

    Where the judge agrees too little with people, a check is passed whatever it said, and the note says so.
    """
    found = []
    if config.min_passed:
        value = report.passed.k / report.passed.n if report.passed.n else 0.0
        found.append(
            CheckResult(
                name="judge",
                passed=report.passed.n > 0 and value >= config.min_passed,
                value=value,
                threshold=config.min_passed,
                n=report.passed.n,
                low=report.passed.low,
                high=report.passed.high,
                note=f"{_length(report)}; {report.unclear} unclear",
                suite=report.suite,
            )
        )
    if live is not None and config.max_drop < 1:
        found.append(_pairs_check(config, report, live))
    kinds = {"judge": "answer"}
    return [_where_held(one, config, report, kinds.get(one.name, "pair")) for one in found]


def _pairs_check(config: JudgeGate, report: JudgeReport, live: Digest) -> CheckResult:
    pairs = [item.pair for item in report.items if item.pair is not None] if report.against == live else []
    lost, won, n = pairs.count("lost"), pairs.count("won"), len(pairs)
    bound = drop_bound(lost, won, n)
    note = f"judged beside {short(report.against)}, not beside the live {short(live)}: judge it again"
    if report.against == live:
        flipped, longer = figures.counted(report.flipped), figures.counted(report.longer)
        note = f"flipped with the order: {flipped}; the longer one won {longer}"
    passed, also = n > 0 and bound < config.max_drop, {"suite": report.suite, "bound": bound}
    return loss_check("drop by judge", (lost, won, n), config.max_drop, passed=passed, note=note, **also)


def _where_held(check: CheckResult, config: JudgeGate, report: JudgeReport, kind: str) -> CheckResult:
    """The check, or one that does not decide since the judge is not known to agree with people."""
    agreement = next((one.agreement for one in report.people if one.kind == kind), None)
    floor = FLOORS[kind] if config.min_alpha is None else config.min_alpha
    said = [item.passed if kind == "answer" else item.pair for item in report.items]
    none = sum(one in (None, "unclear") for one in said)
    if config.people and none > MOST_UNCLEAR * len(said):
        note = f"{none} of {len(said)} verdicts on {kind}s are none: judge it again; {check.note}"
        return check.model_copy(update={"passed": False, "note": note})
    why = ""
    if agreement is None or agreement.alpha is None:
        why = f"it was held against no {kind}s that people judged differently"
    elif agreement.low < floor:
        why = f"its agreement with people on {kind}s is {_alpha(report, kind)}, whose low end is under {floor:g}"
    if not why:
        return check.model_copy(update={"note": f"{_alpha(report, kind)} with people; {check.note}"})
    return check.model_copy(update={"passed": True, "note": f"does not decide: {why}; {check.note}"})


def _alpha(report: JudgeReport, kind: str) -> str:
    at = next(one.agreement for one in report.people if one.kind == kind)
    return f"alpha {figures.alpha(at)}"


def _length(report: JudgeReport) -> str:
    at = report.length
    if at.r is None:
        return "words: no spread"
    return f"passing and words r {figures.estimate(at.r, at.low, at.high, at.n, '.2f')}"
