"""Candidates: a second release on top of a pointer's stack, that a share of the callers gets."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, field_validator

from loradeck.schemas.ids import Digest, Wire, added
from loradeck.schemas.table import Split


class Figure(StrEnum):
    """What two arms are compared by: bad answers of those that are checked, or failed requests of those admitted."""

    BAD = "bad"
    ERRORS = "errors"


MOST_STEPS = 20
"""Most steps of a plan."""

MIN_STEP_S = 600.0
"""Seconds at the least between two steps of a plan, if it says nothing else: what is pending counts as good."""


LONGEST_WHY = 500
"""Characters of the reason for which a plan is held."""


class StepPlan(Wire):
    """The shares that a candidate is stepped through by the hub itself, each when the evidence says so."""

    steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        min_length=1, max_length=MOST_STEPS, description="shares in thousandths, each larger than the one before"
    )
    margin: float = Field(
        gt=0, le=1, description="the candidate's share of bad ones must be seen to exceed the live one's by less"
    )
    figures: tuple[Figure, ...] = Field((Figure.BAD, Figure.ERRORS), min_length=1, max_length=2)
    min_s: float = Field(MIN_STEP_S, ge=0, le=30 * 86_400, description="seconds at the least between two steps")
    finish: bool = Field(False, description="after the last step the hub makes it the live release")
    held: str = Field("", max_length=LONGEST_WHY, description="why it is not stepped; '': it is")

    @field_validator("steps")
    @classmethod
    def _ascend(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)):
            raise ValueError("each step is a larger share than the one before")
        return steps

    def after(self, permille: int) -> int | None:
        """The share that comes after one; None: it is the last."""
        return next((step for step in self.steps if step > permille), None)


class Comparison(Wire):
    """An A/B: both arms are compared by one figure, at a time or a number of keys that is stated before it starts."""

    figure: Figure
    step: int = Field(ge=1, description="whose outcomes it compares; another change of the share ends it without one")
    from_ms: int
    until_ms: int | None = Field(None, description="hub time at which it is over; None: `keys` say so")
    keys: int | None = Field(None, description="it is over once each arm has so many")


class ArmShare(Wire):
    """One arm's share of bad ones, with its 95 % interval by keys."""

    keys: int
    bad: int
    n: int
    low: float
    high: float


class ArmsCompared(Wire):
    """Both arms since the share was changed last. `value`: the candidate's share less the live one's."""

    figure: Figure
    candidate: ArmShare
    live: ArmShare
    value: float
    low: float
    high: float


class ComparisonResult(Wire):
    """What an A/B has found; the hub attests it, and moves nothing."""

    release: Digest
    against: Digest = Field(description="the live release, whose arm was the other one")
    generation: int
    permille: int
    comparison: Comparison
    at_ms: int
    arms: ArmsCompared = Field(description="with two-sided intervals of 95 %")
    highest: float = Field(description="its upper end without the word of the node that lowers it most")
    number: int = added(1, "how many A/Bs of the release there were: `highest` is surer by it", ge=1)


class Candidate(Split):
    """The candidate of a pointer, as the log has it."""

    release: Digest
    plan: StepPlan | None = added(None, "by which the hub steps it by itself; None: it does not")
    comparison: Comparison | None = added(None, "the A/B that was begun last")

    def with_plan_held(self, why: str) -> Self:
        """Returns the candidate with its plan held; `why` '': with its plan going on."""
        assert self.plan is not None
        return self.model_copy(update={"plan": self.plan.model_copy(update={"held": why[:LONGEST_WHY]})})
