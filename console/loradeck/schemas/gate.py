"""The settings of a route's gate: what a candidate must reach before it may be promoted."""

from typing import Literal, Self

from pydantic import Field, model_validator

from loradeck.schemas.candidate import Figure
from loradeck.schemas.ids import Digest, Name, Strict, added
from loradeck.schemas.judge import SuiteJudge


class SuiteGate(Strict):
    """The thresholds of one suite. Shares are 0 to 1."""

    suite: Digest
    min_exact: float = Field(0.0, ge=0, le=1, description="share of items answered as their kind requires")
    min_valid: float = Field(0.0, ge=0, le=1, description="share of answers that are well-formed")
    bound: bool = Field(
        False,
        description="min_exact must be reached by the exact one-sided 95 % lower bound, not by the share alone: 300 "
        "prompts without a failure bound the rate of failures at 1 %",
    )
    max_drop: float = Field(
        0.0,
        ge=0,
        le=1,
        description="largest net share of items lost against the live release; 1 compares nothing. The suite must "
        "have the items to see such a drop; 0 forbids any drop on these items and promises nothing about others",
    )
    bound_drop: bool = added(
        False, "the upper one-sided 95 % bound of the loss must be under max_drop, not the loss alone"
    )
    min_slice: int | None = added(
        None,
        "each slice that items of the suite name is compared by itself, too, and must have so many items; "
        "null: none is",
        ge=1,
    )
    choice: Literal["acc", "acc_norm"] = added(
        "acc", "which of lm-eval's accuracies counts for items of the kind choice"
    )
    canaries: bool = Field(False, description="every canary of the suite must be answered as its kind requires")
    max_p95_ms: float | None = Field(None, gt=0, description="95th percentile of the executor's time for an item, ms")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.bound and self.min_exact == 1:
            raise ValueError("no number of items bounds a share by 1: give min_exact under 1, or bound = false")
        if self.bound_drop and not 0 < self.max_drop < 1:
            raise ValueError("a loss is bounded by a max_drop above 0 and under 1: give one, or bound_drop = false")
        if self.min_slice is not None and self.max_drop == 1:
            raise ValueError("slices are compared: give a max_drop under 1, or leave min_slice out")
        return self


class ReviewGate(Strict):
    """A spot check by people: they judge sampled answers on the gate's own suite and sign by name."""

    items: int = Field(20, ge=1, le=200, description="answers that are sampled")
    max_bad: int = Field(0, ge=0, description="most bad answers with which a review passes")
    people: int = Field(1, ge=1, le=2, description="different people who must sign")
    edges: bool = added(False, "half of the answers are drawn where releases fail first, and the others by lot")


class CompareGate(Strict):
    """An A/B against the live release that a candidate must have come through (`loradeck candidate compare`)."""

    figure: Figure = Figure.BAD
    margin: float = Field(gt=0, le=1, description="the upper end of the difference has to be under it")
    keys: int = Field(50, ge=20, le=500, description="keys that each arm must have had, at least")
    route: Name | None = Field(None, description="of this tenant, on which it was made; None: on the gate's own")


class LeakGate(Strict):
    """How much more often than its base a candidate may reproduce rows that it was trained on (`loradeck job leak`)."""

    max_increase: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="the upper one-sided 95 % bound of the increase, as a share of the rows, is under it",
    )


class JudgeGate(SuiteJudge):
    """What a candidate must reach by a judge's verdicts (`loradeck job judge`), once the judge agrees with people."""

    min_passed: float = Field(0.0, ge=0, le=1, description="share of the answers that the judge passes")
    max_drop: float = Field(
        0.1,
        gt=0,
        le=1,
        description="the upper one-sided 95 % bound of pairs lost to the live release, less those won, is under it; "
        "1: nothing is compared",
    )
    min_alpha: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="the lower end of Krippendorff's alpha with people from which its verdicts count; None: 0.67 on "
        "answers, 0.2 on pairs",
    )


class GateConfig(SuiteGate):
    """A route's gate: the thresholds of its own suite, and those of further suites in `also`.

    The own suite is the one on which live release and candidate are paired and reviews are sampled.
    """

    also: tuple[SuiteGate, ...] = Field((), description="further suites with their thresholds: red team, general")
    discordant: float = Field(
        0.10, gt=0, le=1, description="share of items on which two releases are assumed to differ, to size a suite"
    )
    max_age_days: int = added(0, "days for which an evaluation counts, from when it was attested; 0: for ever", ge=0)
    after: Name | None = Field(
        None, description="route of this tenant on which a candidate must be attested first: staging"
    )
    review: ReviewGate | None = None
    compare: CompareGate | None = added(None, "binds promotes and finishes, and no start")
    leak: LeakGate | None = added(None)
    judge: JudgeGate | None = added(None)
    anchor: Digest | None = added(
        None,
        "release that candidates are compared with beside the live one. Where a suite bounds its drop and "
        "this is left out, the hub puts in the one that stands, or the attested live release; with none live it is the "
        "first that is attested on the route",
    )

    @property
    def suites(self) -> tuple[SuiteGate, ...]:
        """All suites of the gate, its own first."""
        return (self, *self.also)

    @property
    def is_anchored(self) -> bool:
        """Whether candidates are compared with an anchor, once there is one."""
        return self.anchor is not None or any(part.bound_drop for part in self.suites)

    @model_validator(mode="after")
    def _once(self) -> Self:
        digests = [part.suite for part in self.suites]
        if len(set(digests)) != len(digests):
            raise ValueError("a suite is in this gate twice")
        return self
