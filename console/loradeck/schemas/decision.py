"""Worksheets of `loradeck decide`: what prompts, retrieved text and weights score on equal items, at what cost.

And the prices by which `loradeck release payoff` compares a student with its teacher.
"""

from typing import Annotated

from pydantic import Field, FiniteFloat, StringConstraints, field_validator

from loradeck.schemas.freshness import Figure
from loradeck.schemas.ids import Digest, Name, Strict, added


class Prices(Strict):
    """What things cost, in one currency. Tokens are paid by the million, or else by the time that an answer takes."""

    currency: Annotated[str, StringConstraints(max_length=8)] = "EUR"
    gpu_hour: float = Field(ge=0)
    gb_month: float = Field(0.0, ge=0)
    token_in_million: float | None = Field(None, ge=0)
    token_out_million: float | None = Field(None, ge=0)


class MeasuredArm(Strict):
    """An arm by its name, and the evaluate job that has scored it."""

    name: Name
    job: str = Field(max_length=64)


class DecideRequest(Strict):
    """A request to make a worksheet of evaluate jobs that are done."""

    arms: tuple[MeasuredArm, ...] = Field(min_length=2, max_length=32)
    prices: Prices
    requests_a_month: int = Field(ge=1, description="over which training and storage are spread")
    months: int = Field(6, ge=1, le=120, description="for how long a version lives, by which its training is paid")

    @field_validator("arms")
    @classmethod
    def _named_once(cls, arms: tuple[MeasuredArm, ...]) -> tuple[MeasuredArm, ...]:
        if len({arm.name for arm in arms}) < len(arms):
            raise ValueError("each arm has a name of its own")
        return arms


class ArmFigures(Strict):
    """The figures of one arm of a worksheet. `weights`: it has an adapter or weights of its own."""

    name: Name
    release: Digest
    label: str
    weights: bool
    arm: Digest = Field(description="of how items were put, which the job has: prompts and examples are texts")
    contexts: bool
    right: Figure = Field(description="share of items that are right; `n` items, by Wilson")
    changed: Figure | None = Field(None, description="the same, of the items whose truth has changed")
    cited: Figure | None = Field(None, description="the same, of the answers that cite the text that has the truth")
    tokens_in: float = Field(description="mean a request")
    tokens_out: float
    tokens: tuple[Figure, Figure] | None = added(None, "of prompt and of answer; by Student, requests as units")
    p95_ms: Figure = Field(description="of an answer; by ranks")
    engine: str = Field(description="what answered, or that it was computed in process")
    rows: int = Field(0, description="rows by people that it was trained on")
    train_hours: float | None = Field(None, description="GPU hours of the job that made it; None: not by a job here")
    bytes: int = Field(0, description="of its own weights")
    prompt_gain: Figure | None = Field(None, description="weights: share of items that the best arm without wins")
    cost: float = Field(description="of 1,000 requests, with their part of training and storage")
    cost_of: Figure | None = added(None, "the cost with its interval, by what each request took")


class Worksheet(Strict):
    """What was measured, and what follows: whether weights should change at all, and which arm is to serve."""

    tenant: Name
    suite: Digest
    request: DecideRequest
    arms: tuple[ArmFigures, ...]
    weights: bool = Field(description="whether training is worth it")
    choice: Name = Field(description="the arm that is to serve")
    gain: Figure | None = Field(description="share of items that the best weights win over the best prompt, in pairs")
    reasons: tuple[str, ...]
    against: tuple[str, ...]


class Decided(Strict):
    """A worksheet, and the digest by which recipes name it."""

    digest: Digest
    worksheet: Worksheet


class PayoffPrices(Strict):
    """The prices by which a student is compared with its teacher. All are in `currency`."""

    currency: str = Field(min_length=1, max_length=20)
    device_hour: FiniteFloat = Field(ge=0, description="of one GPU, or of the host where there is none")
    tokens_per_month: FiniteFloat = Field(ge=0, description="answered to callers, whichever of the two answers")
    made_once: FiniteFloat = Field(ge=0, description="its data, its training and the people who made it")
    months: FiniteFloat = Field(gt=0, description="over which `made_once` is spread: how long it will serve")
    upkeep_per_month: FiniteFloat = Field(ge=0, description="of evaluating, watching and training it again")
