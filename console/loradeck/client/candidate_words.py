"""Candidates in words: who gets one, and who goes where when R takes it out. For the console and the command line."""

from loradeck.client.terminal_text import clean
from loradeck.rules.quality.figures import estimate
from loradeck.rules.quality.sampling import MOST_UNDER_WAY
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.candidate import ArmsCompared, ArmShare, Candidate, ComparisonResult, StepPlan
from loradeck.schemas.ids import short
from loradeck.schemas.state import AskedAgainRow, PreviewAction, ReleaseView, ShadowLoad, TenantRow
from loradeck.schemas.table import CohortUnit

_UNITS = {CohortUnit.CALLER: "callers", CohortUnit.USER: "users", CohortUnit.CONVERSATION: "conversations"}


def percent_of(permille: int) -> str:
    """A share as people write it: '2.5 %'."""
    return f"{permille / 10:g} %"


def gets(candidate: Candidate) -> str:
    """Says who gets a candidate: '5 % of the users and 2 named'; 'nobody yet'; 'nobody, it shadows 5 % of ...'."""
    if candidate.shadow:
        return f"nobody, it shadows {percent_of(candidate.permille)} of the requests"
    share = f"{percent_of(candidate.permille)} of the {_UNITS[candidate.unit]}" if candidate.permille else ""
    named = f"{len(candidate.named)} named" if candidate.named else ""
    return " and ".join(part for part in (share, named) if part) or "nobody yet"


def of_pairs(again: AskedAgainRow) -> str:
    """Says how a release that is asked again answers beside the live one: '3.1% (2.2-4.3) bad of 1190 pairs, ...'."""
    counts = again.counts
    live, other = (_bad(bad, counts.checked) for bad in counts.bad)
    return f"{other} bad of {counts.checked} pairs, the live release {live}"


def of_noise(again: AskedAgainRow) -> str:
    """Says how much two answers of the live release differ; '' where it was not asked twice."""
    noise = again.noise
    if noise is None or not noise.checked:
        return ""
    once, twice = (_bad(bad, noise.checked) for bad in noise.bad)
    return f"A/A {once} and {twice} of {noise.checked}"


def _bad(bad: int, n: int) -> str:
    """A share with its 95 % interval."""
    if not n:
        return "none"
    low, high = wilson(bad, n)
    return f"{bad / n:.1%} ({100 * low:.1f}-{100 * high:.1f})"


def costs(load: ShadowLoad) -> str:
    """Says what a shadow would cost, and what room there is."""
    tokens = "tokens not counted yet" if load.tokens_per_s is None else f"at most {load.tokens_per_s:g} tokens a second"
    return (
        f"{load.requests_per_s:g} requests a second more, {tokens}; {load.under_way} answers under way now on "
        f"{load.engines} engine{'s' if load.engines != 1 else ''}, of {MOST_UNDER_WAY} each up to which any are added"
    )


def plan_in_words(plan: StepPlan) -> str:
    """A plan: '5 %, 20 %, 50 %, then finish; margin 2 points of bad and errors; at least 10 minutes each'."""
    then = ", then it is finished" if plan.finish else ", then a person finishes it"
    figures = " and ".join(figure.value for figure in plan.figures)
    return (
        f"{', '.join(map(percent_of, plan.steps))}{then}; "
        f"margin {100 * plan.margin:g} points of {figures}; at least {plan.min_s / 60:g} minutes each"
    )


def arms_in_words(found: ArmsCompared) -> str:
    """Both arms of a comparison, with their keys, counts and 95 % intervals."""

    def arm(name: str, of: ArmShare) -> str:
        share = estimate(of.bad / of.n, of.low, of.high, round(of.n), ".2%") if of.n else "nothing"
        return f"{name} {share} by {of.keys} keys"

    points = f"{100 * found.value:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
    return f"{arm('candidate', found.candidate)}; {arm('live', found.live)}; {points}"


def result_in_words(result: ComparisonResult) -> str:
    """The result of an A/B, with both arms and the interval of their difference."""
    return f"{result.comparison.figure.value} against {short(result.against)}: {arms_in_words(result.arms)}"


def leaves(row: TenantRow) -> ReleaseView | None:
    """The release that R would take from callers: the candidate if the live one is where R goes, else the live one."""
    target = row.preview.target
    stays = row.candidate is not None and target is not None and row.live is not None and target.id == row.live.id
    return row.candidate.release if stays and row.candidate is not None else row.live


def who_goes_where(row: TenantRow) -> str:
    """Says who gets what after R while a candidate is out; '' without one, or where R does not roll back."""
    target, out = row.preview.target, row.candidate
    if out is None or target is None or row.live is None or row.preview.action is not PreviewAction.ROLLBACK:
        return ""
    to, live, name = (clean(view.label) for view in (target, row.live, out.release))
    if target.id == row.live.id:
        return f"all callers get {to}; {name} is out and quarantined"
    return f"all callers get {to}; {live} is quarantined, its candidate {name} is out"
