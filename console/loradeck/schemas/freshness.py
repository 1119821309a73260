"""Freshness of what a tenant's adapters were trained on: what people enter, and when training is stopped."""

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from loradeck.schemas.ids import LARGEST_INT, Reason, Strict

MOST_FREEZES = 50
"""Training freezes of one tenant."""

MOST_DATES = 50
"""Dates that a person enters for one tenant."""

Time = Annotated[int, Field(ge=0, le=LARGEST_INT)]
"""Milliseconds since 1970 UTC."""

Why = Annotated[Reason, Field(min_length=1)]


class TrainingFreeze(Strict):
    """A time in which none of a tenant's train jobs is begun, or none on data of one source."""

    from_ms: Time
    until_ms: Time | None = Field(None, description="None: until it is lifted, as a legal hold is")
    source: Annotated[str, StringConstraints(max_length=300)] = Field(
        "", description="rows of this source, case-insensitive; * stands for any characters; empty: all training"
    )
    reason: Why

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> "TrainingFreeze":
        if self.until_ms is not None and self.until_ms <= self.from_ms:
            raise ValueError("a training freeze ends after it begins")
        return self


class ExpectedChange(Strict):
    """A day from which what the adapters know may be wrong: a regulation, another taxonomy, the end of a licence."""

    at_ms: Time
    what: Why
