"""A person's spot check of a candidate's answers, signed off by name."""

from __future__ import annotations

from pydantic import Field

from loradeck.schemas.ids import Digest, Name, Reason, Strict, Wire


class ReviewedItem(Strict):
    """What a person says of one answer."""

    id: str = Field(min_length=1, max_length=200)
    good: bool
    note: Reason = ""


class Review(Strict):
    """Verdicts on every sampled answer. Who signs is the caller; the hub writes the name, and keeps it for ever."""

    release: Digest
    suite: Digest
    answers: Digest = Field(description="digest of the answers that were looked at; of others it says nothing")
    items: tuple[ReviewedItem, ...] = Field(min_length=1)
    note: Reason = ""

    @property
    def bad(self) -> int:
        return sum(not item.good for item in self.items)


class SampledItem(Wire):
    """An item to look at: what was asked, what its suite wants, what the candidate answered."""

    id: str
    prompt: tuple[dict[str, str], ...]
    wanted: str = Field(description="the item's answer, or its kind where it has none")
    answer: str
    exact: bool


class SignedReview(Wire):
    """A review on record. `current`: it is of the answers that are sampled now."""

    by: str
    at_ms: int
    bad: int
    n: int
    current: bool


class ReviewSheet(Wire):
    """What a route's gate wants looked at of one candidate, and who has."""

    tenant: Name
    route: Name
    release: Digest
    suite: Digest
    answers: Digest
    people: int
    max_bad: int
    items: tuple[SampledItem, ...]
    signed: tuple[SignedReview, ...]
