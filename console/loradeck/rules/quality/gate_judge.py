"""A judge's verdicts on a candidate: what they come to, how steady they are, and whether they count at a gate.

- Two answers are shown in both orders, since judges prefer places (Zheng et al., arXiv:2306.05685, section 3.3). A
  winner counts where both orders name it; where each order names another one, the pair is flipped, and undecided.
- Judges like longer answers, so what a pair's length explains is taken away (`length_control`). That longer answers
  alone pass more often is no proof of a bias, since they may be better: the correlation of passing with words is shown.
- Verdicts count only where the judge agrees with people: the lower end of Krippendorff's alpha between it and what more
  than half of the raters chose, on answers of the same kind to questions of the same suite, must reach a floor. Where
  the upper end does not either, it is known to agree too little, and decides nothing, neither for a candidate nor
  against it. In between its agreement is not known, and the check fails until people have judged enough.
- Where more than `MOST_UNCLEAR` of its replies to a candidate are no verdict, the check fails, as where it cannot be
  reached: such replies are the candidate's doing as well, whose answers it reads. Without people it decides nothing.
"""

import math
from collections.abc import Sequence
from typing import Literal

from loradeck.rules.data.preferences import FLOORS
from loradeck.rules.errors import Refused
from loradeck.rules.quality import figures
from loradeck.rules.quality.agreement import alpha, majority
from loradeck.rules.quality.comparison import Counts, loss_check
from loradeck.rules.quality.judge import Side
from loradeck.rules.quality.length_control import JudgedPair, controlled
from loradeck.rules.quality.statistics import Z95, drop_bound, paired_bootstrap, upper_bound
from loradeck.schemas.attestation import CheckResult
from loradeck.schemas.gate import JudgeGate
from loradeck.schemas.ids import Digest, short
from loradeck.schemas.judge_report import Correlation, Held, JudgeReport
from loradeck.schemas.preference import TIE, Campaign

MOST_UNCLEAR = 0.1
"""Share of replies without a verdict above which a judge's check fails."""

FEWEST = 0.25
"""Share of the pairs that the adjusted drop is worth, below which the note says why it is so little."""

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


def held(
    kind: Literal["answer", "pair"],
    people: Sequence[str],
    judge: Sequence[bool | Pair | None],
    suite: Digest | None = None,
) -> Held:
    """Measures how far a judge agrees with people on items of one kind; those without a verdict are left out.

    `suite`: whose questions all of these items ask; None: it is not known.
    """
    both = [(choice, word) for choice, said in zip(people, judge, strict=True) if (word := in_words_of_people(said))]
    found, differ = alpha(both), sum(choice != word for choice, word in both)
    if found.alpha is not None and differ:
        # Few disagreements vary more than the jackknife says: their share has an exact bound as well.
        most = (1 - found.alpha) * upper_bound(differ, found.n) * found.n / differ
        found = found.model_copy(update={"low": max(-1.0, min(found.low, 1 - most))})
    return Held(kind=kind, agreement=found, suite=suite)


def checks(config: JudgeGate, report: JudgeReport, live: Digest | None) -> list[CheckResult]:
    """Checks a candidate by its judge's verdicts: the share that it passes, and the pairs with the live release.

    Where the judge is known to agree too little with people, a check is passed whatever it said, and the note says so.
    Where its agreement on the judge's suite is not known, the check fails, and the note says what to do.
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
    items = [item for item in report.items if item.pair is not None] if report.against == live else []
    outcomes = {"lost": 1, "won": -1}
    pairs = [JudgedPair(outcomes.get(item.pair or "", 0), item.words) for item in items if item.words is not None]
    lost, won, n = (sum(item.pair == "lost" for item in items), sum(item.pair == "won" for item in items), len(items))
    counts = controlled(pairs) if len(pairs) == n else Counts(0, 0, 0)
    bound, (low, high) = drop_bound(*counts), paired_bootstrap(*counts)
    if report.against != live:
        note = f"judged beside {short(report.against)}, not beside the live {short(live)}: judge it again"
    elif len(pairs) < n:
        note = "the report does not say how long the answers are: judge it again (loradeck job judge)"
    else:
        note = _length_note(pairs, counts, report)
    also = {"suite": report.suite, "bound": bound, "value": counts.drop, "low": low, "high": high}
    also |= {"effective": counts.n} if counts.n < n else {}
    passed = n > 0 and bound < config.max_drop
    return loss_check("drop by judge", (lost, won, n), config.max_drop, passed=passed, note=note, **also)


def _length_note(pairs: Sequence[JudgedPair], counts: Counts, report: JudgeReport) -> str:
    n, longer = len(pairs), sum(pair.words > 0 for pair in pairs)
    raw = sum(pair.outcome for pair in pairs) / n if n else 0.0
    note = f"adjusted for length, before that {raw:+.1%}; the candidate's answer is the longer one in {longer} of {n}; "
    flipped, won = figures.counted(report.flipped), figures.counted(report.longer)
    note += f"flipped with the order: {flipped}; the longer one won {won}"
    if counts.n < FEWEST * n:
        note += (
            "; length and quality cannot be told apart: train or ask for answers of like length, or have people review"
        )
    return note


def _where_held(check: CheckResult, config: JudgeGate, report: JudgeReport, kind: str) -> CheckResult:
    """The check, or one that does not decide since the judge is not known to agree with people."""
    of_suite = (one for one in report.people if one.kind == kind and one.suite == config.suite)
    agreement = next((one.agreement for one in of_suite), None)
    floor = FLOORS[kind] if config.min_alpha is None else config.min_alpha
    said = [item.passed if kind == "answer" else item.pair for item in report.items]
    none = sum(one in (None, "unclear") for one in said)
    if config.people and none > MOST_UNCLEAR * len(said):
        note = f"{none} of {len(said)} verdicts on {kind}s are none: judge it again; {check.note}"
        return check.model_copy(update={"passed": False, "note": note})
    if agreement is None or agreement.alpha is None:
        why = f"nobody has judged {kind}s to its questions of which some are better than others"
        return _refused(check, kind, why)
    alpha = f"alpha {figures.alpha(agreement)}"
    if agreement.high < floor:
        why = f"does not decide: its agreement with people on {kind}s is {alpha}, which is under {floor:g}"
        return check.model_copy(update={"passed": True, "note": f"{why}; {check.note}"})
    if agreement.low < floor:
        return _refused(check, kind, f"{alpha} may be above {floor:g} or below it")
    return check.model_copy(update={"note": f"{alpha} with people; {check.note}"})


def _refused(check: CheckResult, kind: str, why: str) -> CheckResult:
    """A check that fails since it is not known how far the judge agrees with people."""
    what = f"its agreement with people on {kind}s of this suite is not known, since {why}"
    fix = "have people judge more of them by the judge's rubric (loradeck preference import), name these judgements in "
    note = f"{what}: {fix}`people`, and judge again; {check.note}"
    return check.model_copy(update={"passed": False, "note": note})


def require_known(config: JudgeGate | None) -> None:
    """Checks that a gate's judge is held against people.

    Raises: Refused: judge_not_known.
    """
    if config is not None and not config.people:
        raise Refused(
            "judge_not_known",
            "nobody knows how far this gate's judge agrees with people on its suite",
            detail=f"suite {short(config.suite)}: the judge names no judgements of people",
            fix="have people judge answers to the suite's questions by the judge's rubric, import what they say "
            "(loradeck preference import), and name it in the judge's `people`",
            context={"suite": config.suite},
        )


def _length(report: JudgeReport) -> str:
    at = report.length
    if at.r is None:
        return "words: no spread"
    return f"passing and words r {figures.estimate(at.r, at.low, at.high, at.n, '.2f')}"
