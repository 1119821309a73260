"""Feedback: what a tenant's callers say of the answers that they got, and what people import beside it."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from loradeck.schemas.answer_ledger import Moment, Short
from loradeck.schemas.ids import Digest, Name, Strict, Wire

FEEDBACK_PATH = "/v1/feedback"
"""Where routers and gateways take feedback."""

BODY_BYTES = 64 << 10
"""Most bytes of one feedback's body at a router."""

BATCH = 200
"""Most rows that a node or a person gives the hub in one call."""

_TEXT = r"^[^\x00]*$"
"""NUL is kept in no text of PostgreSQL, and a hub refuses the whole batch that it is in."""

RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$", max_length=64)]


class FeedbackKind(StrEnum):
    """What feedback says of an answer."""

    THUMB = "thumb"  # value: up or down
    CORRECTION = "correction"  # text: the answer as it should have been
    LABEL = "label"  # value: the class that it should have been given
    OUTCOME = "outcome"  # value: what came of it, in the tenant's words


class Said(Strict):
    """What is said of one answer. `rules.data.feedback.flaw_of` says which kinds take a value and which a text."""

    request: RequestId = Field(description="x-request-id of the answer")
    kind: FeedbackKind
    value: Annotated[str, StringConstraints(pattern=_TEXT, max_length=200)] = ""
    text: Annotated[str, StringConstraints(pattern=_TEXT, max_length=16_384)] = ""
    consent: Annotated[str, StringConstraints(pattern=_TEXT, max_length=64)] = Field(
        "", description="class of the caller's consent, in the tenant's words; empty: none was given"
    )


class CallerFeedback(Said):
    """The body of a caller's feedback."""

    model: Annotated[str, StringConstraints(max_length=129)] = Field(description="as the request named it")


class FeedbackRow(Said):
    """Feedback on its way to the hub."""

    route: Name
    at_ms: Moment = Field(description="when it was given, milliseconds since 1970 UTC")
    caller: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]*$", max_length=16)] = Field(
        "", description="the beginning of the digest of its caller's key; empty: imported"
    )
    release: Digest | None = Field(None, description="what answered, where the router still remembers the request")


class FeedbackRows(Strict):
    """A batch of feedback, all of one tenant."""

    rows: tuple[FeedbackRow, ...] = Field(min_length=1, max_length=BATCH)


class Feedback(FeedbackRow):
    """Feedback as the hub keeps it.

    `tied`: what vouches for the request: the answer ledger, or the router that answered it, where the tenant keeps no
    ledger. Empty: nothing yet, and it is dropped unless something does within a day.
    """

    tenant: Name
    by: Short = Field(description="the node that it came over, or the person who imported it")
    received_ms: Moment
    tied: Literal["", "ledger", "router"] = ""
    generation: Moment | None = None
    bad: bool | None = Field(None, description="whether the checks called the answer bad; None: none looked")
    redacted: bool = Field(False, description="whether something in it was replaced by its kind before it was kept")
    sealed: SkipJsonSchema[str] = Field("", exclude=True)
    """Value and text under a key, in the hub's database alone: both are empty there. Empty: they are not sealed."""

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that name a row: a later row with the same key replaces it."""
        return self.tenant, self.request, self.kind.value, self.caller


class FeedbackTaken(Wire):
    """What the hub made of a batch. `refused`: the request ids, and why, in the order in which they came."""

    kept: int = 0
    waiting: int = Field(0, description="of those that were kept: nothing vouches for their requests yet")
    refused: tuple[tuple[str, str], ...] = ()


class FeedbackPage(Wire):
    """Feedback of a tenant, oldest first, and where the next page begins; None: this is the last one."""

    rows: tuple[Feedback, ...]
    after: int | None = None


class FeedbackErase(Strict):
    """A request to remove feedback: on one request, or whose words contain a text, in whichever case."""

    request: RequestId | None = None
    containing: str | None = Field(None, min_length=3, max_length=1000, description="never stored")


class Withdrawn(Strict):
    """The answers of which feedback was erased, as (route, request). What it said is kept nowhere."""

    requests: tuple[tuple[Name, RequestId], ...]


class FeedbackErased(Wire):
    """How many rows of feedback were removed."""

    removed: int
