"""A route's judge: a model on the node that is asked of some answers whether they do what a rubric says."""

from enum import StrEnum

from pydantic import Field

from loradeck.schemas.ids import Digest, Strict


class Judge(Strict):
    """The settings of a route's judge. What it says is counted and makes no answer bad."""

    rubric: str = Field(min_length=1, max_length=4000, description="what a good answer does, in words for the judge")
    release: Digest | None = Field(
        None, description="release of the tenant that judges, where a node has it loaded; None: the base that answered"
    )
    sample: float = Field(0.05, gt=0, le=1, description="share of the checked answers that it is asked of")
    per_minute: int = Field(6, ge=1, le=600, description="answers that it is asked of in a minute, in each router")
    timeout_s: float = Field(30, gt=0, le=120, description="seconds after which its reply is not waited for")


class Judgement(StrEnum):
    """What came of an answer that the judge was to be asked of."""

    PASSED = "passed"
    FAILED = "failed"
    UNCLEAR = "unclear"  # it gave no verdict: another reply, an error, or none in time
    SHED = "shed"  # it was not asked, since callers come first


VERDICTS = (Judgement.PASSED, Judgement.FAILED)

JUDGE = "judge"
"""The name of its check among those that make no answer bad."""
