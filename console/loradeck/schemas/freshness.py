"""Freshness of adapters: what people enter, when training is stopped, what the meters say, and what is recommended."""

from datetime import date
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from loradeck.schemas.ids import LARGEST_INT, Digest, Name, OfPointer, Reason, Strict, Wire, added

MOST_FREEZES = 50
"""Most training freezes that one tenant has."""

MOST_DATES = 50
"""Most days that people enter for one tenant."""

Time = Annotated[int, Field(ge=0, le=LARGEST_INT)]
"""Milliseconds since 1970 UTC."""

Why = Annotated[Reason, Field(min_length=1)]


class TrainingFreeze(Strict):
    """A time in which none of a tenant's train and generate jobs is begun, or none on data of one source."""

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


MOST_REPLAYED = 400
"""Most days that one import has."""

_Count = Annotated[int, Field(ge=0, le=10**9)]


class ReplayedDay(Strict):
    """What was counted of a release's answers on one day that Loradeck did not see itself; every row says so."""

    replayed: Literal[True]
    day: date = Field(description="in UTC")
    attempted: _Count = Field(0, description="requests")
    refused: _Count = Field(0, description="of them, those that no engine was given")
    checked: _Count = Field(0, description="answers that a check looked at")
    bad: _Count = 0
    said: _Count = Field(0, description="callers who said anything of an answer")
    corrected: _Count = Field(0, description="of them, those who corrected one")

    @model_validator(mode="after")
    def _adds_up(self) -> "ReplayedDay":
        if self.refused > self.attempted or self.bad > self.checked or self.corrected > self.said:
            raise ValueError("a part is larger than its whole")
        return self

    @property
    def number(self) -> int:
        """Days since 1970 UTC."""
        return self.day.toordinal() - date(1970, 1, 1).toordinal()


class Replay(Strict):
    """Days of a release on a route, counted elsewhere or replayed. The newest import of a release counts."""

    release: Digest
    days: tuple[ReplayedDay, ...] = Field(min_length=1, max_length=MOST_REPLAYED)
    reason: Why


class MeterKind(StrEnum):
    """What a freshness meter looks at."""

    LABELS = "labels"  # the age of the rows that the live adapter was trained on
    CORRECTED = "corrected"  # callers whose feedback corrects answers
    BAD = "bad"  # checked answers that are bad
    REFUSED = "refused"  # requests that no engine was given
    INPUTS = "inputs"  # how far words and lengths are from the first days'
    TERMS = "terms"  # the word, or bucket of words, that has become more frequent than any other
    CLASSES = "classes"  # how far the shares of short answers are from the first days'
    BASE = "base"  # another revision of the base, or another chat template, is registered
    RETENTION = "retention"  # rows that may not be kept for much longer
    EXPECTED = "expected"  # a day that a person has entered


class Figure(Wire):
    """A mean over days, or over jobs or refreshes, and its 95 % interval. `of`: requests or rows behind it."""

    mean: float
    low: float
    high: float
    n: int
    of: int = 0


class Meter(Wire):
    """One meter of a route. `p`: how likely the latest days would rank as they do, if all days were alike."""

    kind: MeterKind
    signal: bool = False
    before: Figure | None = None
    now: Figure | None = None
    p: float | None = None
    says: str = Field(description="what it found, or why it says nothing")


class Sizing(Wire):
    """What training again would take and bring, by what was measured here; None: nothing was."""

    rows: Figure | None = Field(None, description="rows that past refreshes added")
    items: int = Field(description="held-out items that a gate needs to see the gain, or to bound a loss of 5 points")
    corrections: int = Field(0, description="corrections that callers have given since the live rows came in")
    gpu_hours: Figure | None = Field(None, description="of the live recipe, at the speed of past jobs on its base")
    gain: Figure | None = Field(None, description="share of items that past refreshes won over what was live")
    prompt: Figure | None = Field(None, description="what a better prompt wins over the live release, if measured")


class Remedy(StrEnum):
    """What is recommended."""

    NOTHING = "nothing"
    PROMPT = "prompt"
    RETRIEVAL = "retrieval"
    TRAIN = "train"


class Recommendation(Wire):
    """What to do about a route, and why, and why not. Nothing follows from it by itself."""

    remedy: Remedy
    reasons: tuple[str, ...]
    against: tuple[str, ...] = ()


class LoopStep(StrEnum):
    """How far labelled rows of the backlog have come on a route; docs/backlog.md has the way from one to the next."""

    LABELLED = "labelled"
    TRAINING = "training"
    FAILED = "failed"
    TRAINED = "trained"
    CANDIDATE = "candidate"
    LIVE = "live"


class Loop(Wire):
    """The newest dataset that was built of the backlog, and how far it has come. `by`: the job or the version."""

    dataset: Digest
    name: Name
    rows: int
    step: LoopStep
    by: str = ""
    gate: bool | None = Field(None, description="whether its version passed the route's gate; None: not judged there")


class Replayed(Wire):
    """Which of the days that the meters compare were imported, by whom and why."""

    days: int
    first: date
    last: date
    by: str
    at_ms: int
    reason: str


class RouteFreshness(Wire):
    """The meters of a route's live release."""

    route: Name
    release: Digest | None
    label: str = ""
    since_ms: int | None = Field(None, description="when the release became live")
    meters: tuple[Meter, ...] = ()
    sizing: Sizing | None = Field(None, description="None: no meter has a signal")
    recommendation: Recommendation
    wrong: int = Field(
        0, description="answers that feedback or a check calls wrong, since the newest dataset of the backlog was built"
    )
    loop: Loop | None = Field(None, description="None: no dataset was built of the tenant's backlog")
    replayed: Replayed | None = added(None, "None: every day was counted here")


class Freshness(Wire):
    """The answer to `GET /v1/tenants/{t}/freshness`."""

    tenant: Name
    at_ms: int
    frozen: str = Field("", description="why no training is begun now, and until when; empty: it is not frozen")
    routes: tuple[RouteFreshness, ...]


class LoopRow(OfPointer):
    """Where a route stands between a signal and new weights: one row of `GET /v1/loop`."""

    label: str = Field(description="of the live release")
    at_ms: int = Field(description="when its meters were looked at; with many tenants that is some minutes ago")
    signals: tuple[MeterKind, ...]
    replayed: int = added(0, "days of the meters that were imported and not counted here")
    remedy: Remedy
    wrong: int = Field(description="as in `RouteFreshness`")
    loop: Loop | None
    candidate: str = Field("", description="label of the route's candidate; empty: there is none")
    permille: int = Field(0, description="thousandths of the callers that the candidate has")
    frozen: str = Field("", description="why no training is begun now, and until when; empty: it is not frozen")
