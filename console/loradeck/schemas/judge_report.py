"""What a judge said of a candidate's answers to a suite, how steady it was, and how far it agrees with people."""

from typing import Literal

from pydantic import Field, FiniteFloat

from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.ids import Digest, Line, Strict, Whole, added
from loradeck.schemas.preference import Agreement, Counted


class JudgedItem(Strict):
    """The verdicts on one item: on the candidate's answer alone, and beside the other release's."""

    id: str = Field(max_length=200)
    passed: bool | None = Field(description="None: it gave no verdict")
    pair: Literal["won", "lost", "tie", "flipped", "unclear"] | None = Field(
        None, description="flipped: each order got another winner; equal answers are a tie; None: there is no other one"
    )
    words: Whole | None = added(
        None, "by how many the candidate's answer is longer than the other one; None: there is none, or it is not known"
    )


class Correlation(Strict):
    """Pearson's correlation with its 95 % interval (Fisher's z). None: one of the two is the same throughout."""

    r: FiniteFloat | None
    low: FiniteFloat
    high: FiniteFloat
    n: Whole


class Held(Strict):
    """How far a judge agrees with what more than half of the people chose, on answers alone or on pairs."""

    kind: Literal["answer", "pair"]
    agreement: Agreement
    suite: Digest | None = added(None, "whose questions these items ask; None: any, as reports had it before")


class JudgeReport(Strict):
    """Verdicts of one judge on a release's answers to a suite, alone and in pairs with another release's.

    A pair is shown in both orders: a win counts where both orders give it.
    """

    release: Digest
    against: Digest | None = Field(description="the release whose answers stood beside; None: none")
    suite: Digest
    judge: Digest = Field(description="of the settings by which it was asked")
    rubric: Digest = Field(description="SHA-256 of the rubric's text")
    model: Line = Field(description="that judged, as its engine or its address names it")
    items: tuple[JudgedItem, ...] = Field(min_length=1)
    passed: Counted = Field(description="of the answers with a verdict")
    unclear: Whole = Field(description="answers and pairs without one")
    flipped: Counted = Field(description="of the pairs that got a winner in both orders")
    first: Counted = Field(description="of all winners of an order: the answer that was shown first")
    longer: Counted = Field(description="of the pairs that were won or lost: the answer with more words")
    length: Correlation = Field(description="of passing with the number of words")
    people: tuple[Held, ...] = Field((), max_length=2)
    engine: EngineBuild = Field(description="that answered")
    seconds: FiniteFloat = Field(ge=0)
