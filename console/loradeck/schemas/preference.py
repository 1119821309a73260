"""Preferences: raters, rubrics, items and judgements as files hold them, and what they add up to."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import AwareDatetime, Field, FiniteFloat, StringConstraints

from loradeck.schemas.backlog import LONGEST, LeftOut
from loradeck.schemas.ids import Digest, Reason, Strict, Wire, added
from loradeck.schemas.manifest import DatasetManifest

TIE = "tie"
"""The choice between two answers that neither is better."""

Short = Annotated[str, StringConstraints(min_length=1, max_length=100)]
"""An id, a choice or a qualification."""

RubricVersion = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*@[1-9][0-9]*$", max_length=80)]
"""A version of a rubric, such as `helpful@2`."""

Kind = Literal["pair", "answer", "label"]
"""What raters choose: the better one of two answers, whether an answer is good or bad, or a label."""


class Rubric(Strict):
    """A version of the guidelines by which raters choose."""

    rubric: RubricVersion
    text: str = Field(min_length=1, max_length=LONGEST)
    needs: tuple[Short, ...] = Field((), max_length=20, description="qualifications without which nobody rates by it")
    scale: tuple[Short, ...] = Field((), max_length=20, description="labels from least to most; none: without an order")


class Rater(Strict):
    """A person who judges, under a pseudonymous id. `person`: the name by which they sign in to the hub, if they do."""

    rater: Short
    qualifications: tuple[Short, ...] = Field(max_length=50)
    person: str = Field("", max_length=200)


class Item(Strict):
    """What is judged: two answers to a prompt, one answer, or a prompt alone, which gets a label."""

    item: Short
    prompt: str = Field(min_length=1, max_length=LONGEST)
    system: str = Field("", max_length=LONGEST)
    a: str = Field("", max_length=LONGEST)
    b: str = Field("", max_length=LONGEST)
    answer: str = Field("", max_length=LONGEST)
    gold: Short | None = Field(None, description="the choice that is known to be right: it measures raters")
    refuse: bool = Field(False, description="the right answer is to refuse")

    @property
    def kind(self) -> Kind:
        """What raters choose of it."""
        return "pair" if self.a and self.b else "answer" if self.answer else "label"

    def takes(self, choice: str, scale: Sequence[str] = ()) -> bool:
        """Tells whether this can be chosen of the item. `scale`: the labels that there are; none: any."""
        if self.kind == "pair":
            return choice in ("a", "b", TIE)
        return choice in ("good", "bad") if self.kind == "answer" else not scale or choice in scale


class Judgement(Strict):
    """What one rater chose of one item, by a version of a rubric: a, b or tie; good or bad; or a label."""

    item: Short
    rater: Short
    rubric: RubricVersion
    choice: Short
    first: Literal["a", "b"] | None = Field(None, description="the answer that was shown first, or on the left")
    at: AwareDatetime
    seconds: FiniteFloat | None = Field(None, ge=0, le=86_400, description="for which the rater looked at it")


class Campaign(NamedTuple):
    """What a dataset of judgements holds. `digests`: item -> digest of its row."""

    rubrics: Mapping[str, Rubric]
    raters: Mapping[str, Rater]
    items: Mapping[str, Item]
    judgements: Sequence[Judgement]
    digests: Mapping[str, Digest]


class Adjudication(Strict):
    """What somebody who did not rate an item decided of it, and why. Its subject is the digest of the item's row."""

    rubric: RubricVersion
    choice: str = Field(max_length=100, description="empty: the decision before is taken back")
    reason: Reason = Field(min_length=1)


class Disputed(Wire):
    """An item whose raters differ, or on which two rubrics do. `votes`: rater or rubric -> choice."""

    item: Item
    votes: dict[str, str]
    why: str = ""


class Counted(Strict):
    """A share, `k` of `n`, with its 95 % interval (Wilson's)."""

    k: int
    n: int
    low: float
    high: float


class Agreement(Strict):
    """Krippendorff's alpha with its 95 % interval. `n`: items that two raters or more have judged.

    None: it is not defined, because nothing was judged twice or everybody chose the same throughout.
    """

    alpha: float | None
    low: float
    high: float
    n: int


class RaterFigures(Strict):
    """What is known of one rater's work."""

    rater: str
    judgements: int
    agrees: Counted = Field(description="items on which more than half of the others chose one thing: the rater, too")
    without: Agreement = Field(description="of all others")
    gold: Counted
    first: Counted = Field(description="choices between two answers: the one that was shown first")
    early: Counted = Field(description="`agrees` in the first half of the rater's time")
    late: Counted = Field(description="`agrees` in the second half")
    flags: tuple[str, ...] = Field((), description="disagrees, position, drift, gold")


class PreferenceBuild(Strict):
    """How a dataset is made of judgements: the same judgements give the same rows."""

    judgements: Digest = Field(description="the dataset that holds them")
    rubric: RubricVersion
    without: tuple[Short, ...] = Field((), max_length=1000, description="raters whose judgements do not count")
    each: int = Field(2, ge=1, le=20, description="raters that a row needs")


class PreferenceReport(Strict):
    """The agreement behind a dataset that was made of judgements, and what was left out of it."""

    build: PreferenceBuild
    kind: Kind
    rows: int
    agreement: Agreement
    gold: Counted
    both_orders: Counted = Field(description="pairs judged twice or more: those that were shown in both orders")
    longer: Counted = Field(description="rows of pairs: the chosen answer has more words")
    adjudicated: int
    raters: tuple[RaterFigures, ...]
    left_out: tuple[LeftOut, ...] = Field(description="`requests`: ids of items")
    twice: dict[str, int] = added(
        dict, "qualification -> rows that two persons or more who have it have judged; '': whoever they are"
    )


class RubricsCompared(Wire):
    """What two rubrics come to: the items of those that both decide on which they agree, and where they differ."""

    agree: Counted
    differ: tuple[Disputed, ...]


class PreferenceDataset(Strict):
    """A dataset that was made of judgements, as it is sent to be registered."""

    manifest: DatasetManifest
    build: PreferenceBuild
