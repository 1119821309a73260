"""What changes do to answers. Without a change the same requests have the same answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from . import durations, outcomes
from .kinds import Kind, kind_of
from .route import Change, Effect, Route, Why

TOKENS = 3.0


@dataclass(frozen=True)
class Draws:
    """Random numbers of each answer: whether a change concerns it, and how long it runs on."""

    is_concerned: NDArray[np.float64]
    normal: NDArray[np.float64]
    uniform: NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Answers before they are dated: seconds to the first token, of the rest, and until a failure."""

    time: NDArray[np.float64]
    caller: NDArray[np.int64]
    node: NDArray[np.int64]
    body: NDArray[np.int64]
    first: NDArray[np.float64]
    rest: NDArray[np.float64]
    refusal: NDArray[np.float64]
    failed: NDArray[np.bool_]
    bad: NDArray[np.bool_]
    why: NDArray[np.int64]

    def beginning(self) -> NDArray[np.float64]:
        """Seconds to the first token. What fails has none, and counts when it fails."""
        begun = np.where(np.isfinite(self.first), np.minimum(self.first, durations.LIMIT_S), np.inf)
        return np.where(self.failed, self.refusal, begun)

    def duration(self) -> NDArray[np.float64]:
        """Seconds to the end, inf where there is none."""
        total = self.first + self.rest
        limited = np.where(np.isfinite(total), np.minimum(total, durations.LIMIT_S), np.inf)
        return np.where(self.failed, self.refusal, limited)


def asks_new(route: Route, time: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each request asks something that nobody asked before a change of what is asked."""
    answer = np.zeros(len(time), bool)
    for change in route.changes:
        if change.cause is Why.ASKED:
            answer |= (time >= change.at) & (time < change.end) & (uniform < change.extent)
    return answer


def concerned(change: Change, answers: Answers) -> NDArray[np.bool_]:
    """Whether an answer comes from what has changed, whenever it was asked for."""
    if change.cause is Why.CALLER:
        return answers.caller == change.target
    if change.cause is Why.NODE:
        return answers.node == change.target
    if change.cause is Why.ASKED:
        return kind_of(answers.body) == Kind.NEW
    return np.ones(len(answers.time), bool)


def apply(route: Route, change: Change, answers: Answers, draws: Draws) -> Answers:
    """The answers with the change. `why` names its cause where the change has made an answer bad, late or endless."""
    is_subject = concerned(change, answers)
    is_affected = is_subject & (answers.time >= change.at) & (answers.time < change.end)
    if change.effect is Effect.HUNG:
        return _hang(change, answers, is_subject)
    if change.effect is Effect.TOKENS:
        is_slower = is_affected & ~answers.failed
        rest = np.where(is_slower, TOKENS * answers.rest, answers.rest)
        return replace(answers, rest=rest, why=_because(answers, is_slower, change))
    is_hit = is_affected & ~answers.failed & (draws.is_concerned < _more(route, change, answers))
    is_changed = is_hit & ~answers.bad
    if change.effect is Effect.BAD:
        pace = np.where(is_changed, change.pace, 1.0)
        return replace(
            answers,
            first=answers.first * pace,
            rest=answers.rest * pace,
            bad=answers.bad | is_hit,
            why=_because(answers, is_changed, change),
        )
    run_on = durations.seconds(durations.RUNAWAY, draws.normal, draws.uniform)
    rest = np.where(is_hit, np.maximum(run_on - answers.first, 0.0), answers.rest)
    return replace(answers, bad=answers.bad | is_hit, rest=rest, why=_because(answers, is_hit, change))


def _more(route: Route, change: Change, answers: Answers) -> NDArray[np.float64] | float:
    """Probability that a change turns an answer bad, so that its share of those that it concerns is bad on the average.

    A change of one caller counts from that caller's own mean, and others from the route's.
    """
    if change.effect is Effect.RUNAWAY:
        return change.to
    usual, to = route.share, change.to
    if change.cause is Why.CALLER:
        usual = float(outcomes.means(route)[change.target])
    if change.cause is Why.ASKED:
        to = (change.to - (1 - change.extent) * route.share) / change.extent
    return max(0.0, (to - usual) / (1 - usual))


def _hang(change: Change, answers: Answers, is_subject: NDArray[np.bool_]) -> Answers:
    """What has not begun, or not ended, when the engine hangs never does, and never fails either."""
    is_exposed = is_subject & (answers.time < change.end)
    is_endless = is_exposed & (answers.time + answers.duration() > change.at)
    is_silent = is_exposed & (answers.time + answers.beginning() > change.at)
    return replace(
        answers,
        first=np.where(is_silent, np.inf, answers.first),
        rest=np.where(is_endless, np.inf, answers.rest),
        failed=answers.failed & ~is_endless,
        bad=answers.bad & ~is_endless,
        why=_because(answers, is_endless, change),
    )


def _because(answers: Answers, is_changed: NDArray[np.bool_], change: Change) -> NDArray[np.int64]:
    """Ground truth with the change as the cause of what it has turned."""
    return np.where(is_changed, int(change.cause), answers.why)
