"""A route's gate: what a candidate must reach before it may go forward."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from loradeck.schemas.ids import Digest, Name, Strict


class SuiteGate(Strict):
    """What a candidate must reach on one suite. Shares are 0 to 1."""

    suite: Digest
    min_exact: float = Field(0.0, ge=0, le=1, description="share of items answered as their kind asks")
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
        "have the items to see such a drop; 0 asks for none on these items and promises nothing about others",
    )
    canaries: bool = Field(False, description="every canary of the suite must be answered as its kind asks")
    max_p95_ms: float | None = Field(None, gt=0, description="95th percentile of the executor's time for an item, ms")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.bound and self.min_exact == 1:
            raise ValueError("no number of items bounds a share by 1: give min_exact under 1, or bound = false")
        return self


class ReviewGate(Strict):
    """A spot check by people: sampled answers on the gate's own suite are looked at and signed off by name."""

    items: int = Field(20, ge=1, le=200, description="answers that are sampled")
    max_bad: int = Field(0, ge=0, description="bad ones among them up to which a review passes")
    people: int = Field(1, ge=1, le=2, description="different people who must sign; 2 wants a second one")


class GateConfig(SuiteGate):
    """A route's gate. Its own suite is what `max_drop` is about in the first place; `also` holds further ones."""

    also: tuple[SuiteGate, ...] = Field((), description="further suites, each with what it asks: red team, general")
    discordant: float = Field(
        0.10, gt=0, le=1, description="share of items on which two releases are taken to differ, to size a suite"
    )
    after: Name | None = Field(
        None, description="route of this tenant on which a candidate must have been proven first: staging"
    )
    review: ReviewGate | None = None

    @property
    def suites(self) -> tuple[SuiteGate, ...]:
        return (self, *self.also)

    @model_validator(mode="after")
    def _once(self) -> Self:
        digests = [part.suite for part in self.suites]
        if len(set(digests)) != len(digests):
            raise ValueError("a suite stands in this gate twice")
        return self
