"""Reviews: a person's spot check of a candidate's answers, signed by name."""

from enum import StrEnum

from pydantic import Field

from loradeck.schemas.ids import Digest, OfPointer, Reason, Strict, Wire, added


class Drawn(StrEnum):
    """Why an answer is in the sample."""

    LOT = "lot"
    DIFFERS = "differs"  # the live release's answer to it was scored otherwise
    CLOSE = "close"  # a tenth of the items: those where the model was least sure
    RARE = "rare"  # of a slice that has a tenth of the items at most


DRAWN = {
    Drawn.LOT: "by lot",
    Drawn.DIFFERS: "scored otherwise than the live release's",
    Drawn.CLOSE: "of low margin",
    Drawn.RARE: "of rare slices",
}
"""Why an answer was drawn, in words after a number."""

DrawnCounts = dict[Drawn, tuple[int, int]]
"""Why answers were drawn -> how many were, and of how many."""


class ReviewedItem(Strict):
    """A person's verdict on one answer."""

    id: str = Field(min_length=1, max_length=200)
    good: bool
    note: Reason = ""


class Review(Strict):
    """Verdicts on every sampled answer, sent by the reviewer. The hub adds the caller's name and stores it for
    ever.
    """

    release: Digest
    suite: Digest
    answers: Digest = Field(description="digest of the answers that were reviewed; it counts for no others")
    items: tuple[ReviewedItem, ...] = Field(min_length=1)
    note: Reason = ""
    person: str = added("", "set by the hub: who the reviewer is where two people are asked for", max_length=300)
    against: Digest | None = added(None, "set by the hub: the live release, by which some of the answers were drawn")
    drawn: DrawnCounts = added(dict, "set by the hub: why these answers were drawn, and of how many")

    @property
    def bad(self) -> int:
        """Number of answers judged bad."""
        return sum(not item.good for item in self.items)


class SampledItem(Wire):
    """An item to review: its question, the suite's answer and the candidate's."""

    id: str
    prompt: tuple[dict[str, str], ...]
    wanted: str = Field(description="the item's answer, or its kind if it has none")
    answer: str
    exact: bool
    drawn: Drawn = Drawn.LOT


class SignedReview(Wire):
    """A review on record. `current`: it covers the answers that are sampled now."""

    by: str
    at_ms: int
    bad: int
    n: int
    current: bool
    lot: tuple[int, int] | None = added(None, "of those drawn by lot, which alone speak of all: bad, and how many")


class ReviewSheet(OfPointer):
    """The review that a route's gate requires of one candidate: the sampled items, and the reviews signed so far."""

    release: Digest
    suite: Digest
    answers: Digest
    people: int
    max_bad: int
    items: tuple[SampledItem, ...]
    drawn: DrawnCounts = Field(default_factory=dict)
    signed: tuple[SignedReview, ...]
