"""A route's settings: placement, conditions of promotes, response checks, behaviour in gaps, and suggested canaries."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from loradeck.schemas.gate import GateConfig
from loradeck.schemas.ids import Digest, Label, Name, Strict, Ticket, Wire, added
from loradeck.schemas.table import Callers, Gap, ResponseChecks, RouteResidency, Streams


class Guard(StrEnum):
    """What happens by itself when a release that has just gone out breaks what its route promises."""

    OFF = "off"  # nothing
    ALERT = "alert"  # it is said
    HOLD = "hold"  # the pointer is held: nothing goes forward until a person clears it
    ROLLBACK = "rollback"  # the release is rolled back, as by R


class Soak(Strict):
    """How long a release must have served on a pointer before R goes to it without asking."""

    seconds: float = Field(600, ge=0)
    requests: int = Field(200, ge=0)


LARGEST_SHARE = 0.4
"""The largest share that a route may promise not to exceed."""


class Objectives(Strict):
    """What a route promises its callers: shares that its live release does not exceed for long. None: what is usual.

    Well above them (twice, or a percentage point more where that is more) the release is breached. What is usual is the
    95th percentile of the hours' shares of the last 14 days, and 2 % until there are 24 hours to take it from.
    """

    bad: float | None = Field(None, gt=0, le=LARGEST_SHARE, description="of the answers that are checked")
    errors: float | None = Field(None, gt=0, le=LARGEST_SHARE, description="of the requests given to an engine")
    ttft_ms: int | None = Field(
        None, gt=0, description="95 % of streamed answers begin within so many; None: no promise"
    )
    token_ms: int | None = added(
        None, "95 % of streamed answers have so many between two tokens at most, on average; None: no promise", gt=0
    )
    noticed: float | None = added(
        None, "of the answers that are checked, by each check that makes none bad; None: 2 %", gt=0, le=LARGEST_SHARE
    )
    judged: float | None = added(None, "of the verdicts of its judge; None: as `noticed`", gt=0, le=LARGEST_SHARE)
    refusals: float | None = added(
        None, "of the requests, those that routers refuse; None: 5 %, and no error budget", gt=0, le=LARGEST_SHARE
    )
    corrected: float | None = added(
        None, "of the feedback on answers, thumbs down and corrections; None: no promise", gt=0, le=LARGEST_SHARE
    )

    @property
    def shares(self) -> dict[str, float]:
        """The shares that are error budgets: figure -> the promised share, 0 to 1."""
        said = {"bad": self.bad, "errors": self.errors, "refusals": self.refusals}
        return {figure: share for figure, share in said.items() if share is not None}


class BreachLimit(Strict):
    """Limits over all of a release's time, which earlier hubs had. They are read and not used: evidence decides."""

    bad: float = Field(0.10, gt=0, le=1)
    errors: float = Field(0.05, gt=0, le=1)
    n: int = Field(50, ge=1)


class Pooled(Strict):
    """The placement of a route in a pool: the hub assigns it to nodes of the pool."""

    pool: Name
    replicas: int = Field(1, ge=1, le=64, description="nodes that serve it")
    spread: Label = Field("", description="label in which these differ, such as zone; '': in none")


class Controls(Strict):
    """What the tenant's own rules ask of moves, beyond a gate. Nothing of it holds up a move that goes back."""

    duties: bool = Field(False, description="who made, who reviewed and who promotes a release are different people")
    tickets: bool = Field(False, description="moves carry a change ticket; those that go back are given one afterwards")
    standing_ticket: Ticket | None = Field(None, description="the ticket under which the hub moves by itself")
    stakeholders: tuple[Annotated[str, StringConstraints(min_length=1, max_length=300)], ...] = added(
        (), "each of these has read how a release's card differs from the live one's before it goes out", max_length=20
    )


class RouteConfig(Strict):
    """All settings of a route. They are set as a whole, by an event of the log."""

    placement: dict[str, str] = Field(default_factory=dict, description="labels a node must carry; {} is any node")
    pool: Pooled | None = added(None, "placed in a pool; None: by the labels")
    min_replicas: int = Field(1, ge=1, description="proven replicas a generation needs to be attested")
    soak: Soak = Soak()
    gate: GateConfig | None = None
    breach: BreachLimit = BreachLimit()
    objectives: Objectives = added(Objectives())
    guard: Guard = added(Guard.OFF, "what happens by itself when a new release breaks the objectives")
    checks: ResponseChecks = ResponseChecks()
    gap: Gap = Gap.LEFT
    residency: RouteResidency = added(RouteResidency.ALWAYS)
    streams: Streams = Streams.FINISH
    fallback: bool = Field(True, description="F may move the route to the base alone")
    refuse_after_s: float | None = Field(None, ge=0, description="on hub loss: None serves on; else refuse after")
    freeze: tuple[tuple[int, int], ...] = Field((), description="[from_ms, to_ms) during which nothing is promoted")
    signers: tuple[str, ...] = Field(
        (), description="public keys (PEM); if there are any, only releases signed by one of them are served"
    )
    callers: Callers = added(Callers())
    controls: Controls = added(Controls())
    canaries: tuple[tuple[dict[str, str], ...], ...] = Field(
        (), description="fixed conversations, each a list of {role, content}, that fingerprint a release here"
    )


Conversation = tuple[dict[str, str], ...]
"""Messages, each {role, content}."""


class RowPrompt(Wire):
    """The prompt of one row of a dataset, and the row's place: 'rows.jsonl, line 3'."""

    where: str
    messages: Conversation


class SuggestRequest(Strict):
    """Asks which rows of a dataset would be good canaries of a release on a route."""

    release: Digest
    dataset: Digest
    prompts: int = Field(24, ge=1, le=64, description="rows that are tried, spread over the dataset")


class Suggestion(Wire):
    """One row's prompt as a canary. Margins are in nats, over the tokens up to the first one that differs."""

    where: str
    messages: Conversation
    margin: float | None = Field(description="the smallest of `margins`; None: it does not tell the release from all")
    margins: dict[Digest, float | None] = Field(description="other release -> margin; None: not told apart")
    proposed: bool = Field(description="one of those that together tell the release from the most others")


class Suggestions(Wire):
    """The answer to a `SuggestRequest`: the prompts that were tried, best first."""

    release: Digest
    replica: Name = Field(description="the engine that was asked")
    build: str = Field(description="its build: another one may give other tokens")
    others: dict[Digest, str] = Field(description="the releases it is told from, by id, as people call them")
    not_asked: dict[Digest, str] = Field(
        default_factory=dict, description="of these: the ones the engine could not be asked for, and why"
    )
    prompts: tuple[Suggestion, ...]
