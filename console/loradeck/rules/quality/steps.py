"""Steps on evidence: whether a candidate's share is widened by the hub itself, and what is awaited otherwise.

A step needs keys, and a bound: the candidate's share of bad ones must be seen to exceed that of the live release by
less than the plan's margin. Time is a minimum only. Each step is judged by the answers since the last one, so that a
share which was small at night and is large by day compares like with like. The bound may be looked at after every
answer, and the steps of a plan share ALPHA: the probability that a candidate which is worse by the margin or more is
ever widened is at most that.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from loradeck.rules.moves.candidate import FEWEST_KEYS, FEWEST_OF_ARM
from loradeck.rules.quality.arm_comparison import (
    Level,
    Outcomes,
    always_valid,
    difference,
    each_left_out,
    fixed,
    keys_of,
    units_of,
)
from loradeck.rules.quality.figures import estimate
from loradeck.rules.quality.statistics import ALPHA
from loradeck.rules.serving.arms import PLACES
from loradeck.schemas.candidate import ArmsCompared, Candidate, Figure, StepPlan

_WITHOUT = fixed(ALPHA)
"""The level of the bound that has to hold also without the word of any one node."""

NAMES = {Figure.BAD: "bad answers", Figure.ERRORS: "errors"}


@dataclass(frozen=True, kw_only=True)
class Around:
    """What is looked at besides the evidence.

    `keys`: keys that a share is drawn from. `since_s`: seconds since the share was changed last. `heard`: the share (0
    to 1) of the placed replicas that are heard, and `placed` their nodes. `forbidden`: why nothing goes
    forward there now, as in a freeze window. `guard`: what guard says of the release.
    """

    keys: int
    since_s: float
    heard: float
    placed: frozenset[str]
    settling: bool = False
    held: bool = False
    forbidden: str = ""
    guard: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the hub does with a candidate by itself.

    `permille`: the share that it goes to; None: it stays. `finish`: it becomes the live release. `waits`: in words,
    what is awaited; (): nothing.
    """

    permille: int | None = None
    finish: bool = False
    waits: tuple[str, ...] = ()


def said(found: ArmsCompared) -> str:
    """A comparison in words, with both arms' intervals and the upper bound of their difference."""
    candidate, live = (
        estimate(arm.bad / arm.n, arm.low, arm.high, round(arm.n), ".1%") for arm in (found.candidate, found.live)
    )
    return f"{NAMES[found.figure]} {candidate}, live {live} (upper bound {100 * found.high:+.1f} points)"


def decide(out: Candidate, candidate: Outcomes, live: Outcomes, around: Around) -> Decision:
    """Decides on the next step of a candidate that has a plan.

    `candidate`: what nodes have said of its arm since the share was changed last; `live`: of the other arm.
    """
    plan = out.plan
    assert plan is not None
    following = plan.after(out.permille)
    if following is None and not plan.finish:
        return Decision(waits=("its finish, by a person",))
    waits = [*_stops(plan, around)]
    if not out.permille:
        waits += [f"{around.keys} of {FEWEST_KEYS} keys"] if around.keys < FEWEST_KEYS else []
    else:
        waits += [f"{around.since_s / 60:.0f} of {plan.min_s / 60:g} minutes"] if around.since_s < plan.min_s else []
        if out.permille < PLACES:  # else nothing is left to compare it with
            waits += _lacks(plan, candidate, live, around.placed)
    if waits:
        return Decision(waits=tuple(waits))
    return Decision(permille=following, finish=following is None)


def _stops(plan: StepPlan, around: Around) -> Iterable[str]:
    for is_so, why in (
        (plan.held, f"somebody to resume it: {plan.held}"),
        (around.held, "somebody to release the hold"),
        (around.settling, "this hub to make forward moves"),
        (around.heard <= 0.5, "more than half of its replicas to be heard"),
        (around.forbidden, f"the end of this: {around.forbidden}"),
        (around.guard, f"guard: {around.guard}"),
    ):
        if is_so:
            yield why


def _lacks(plan: StepPlan, candidate: Outcomes, live: Outcomes, placed: frozenset[str]) -> Iterable[str]:
    """Names what the evidence lacks. One node's word counts only for a pointer that is placed there alone."""
    keys, said = keys_of(candidate), candidate.keys() | live.keys()
    if keys < FEWEST_OF_ARM:
        yield f"{keys} of {FEWEST_OF_ARM} keys"
        return
    alone = len(placed | said) == 1
    most = max(candidate, key=lambda node: candidate[node].keys)
    if not alone and keys_of(candidate, most) < FEWEST_OF_ARM:
        yield f"{FEWEST_OF_ARM} keys without the word of {most}"
        return
    for figure in plan.figures:
        found = difference(units_of(candidate, figure), units_of(live, figure), level(plan))
        if found is None:
            yield f"{NAMES[figure]}: none to compare in both arms"
        elif found.high >= plan.margin:
            yield f"{NAMES[figure]}: upper bound {100 * found.high:.1f} > {100 * plan.margin:g} points"
        elif not alone and (node := _rests_on(candidate, live, figure, plan.margin)):
            yield f"{NAMES[figure]}: the same without the word of {node}"


def level(plan: StepPlan) -> Level:
    """The level of the bound that each step of a plan is judged by."""
    return always_valid(ALPHA / len(plan.steps))


def _rests_on(candidate: Outcomes, live: Outcomes, figure: Figure, margin: float) -> str:
    """The node without whose word the difference is not seen to be below the margin; '': none."""
    for node, given, beside in each_left_out(candidate, live, figure):
        found = difference(given, beside, _WITHOUT)
        if found is None or found.high >= margin:
            return node
    return ""
