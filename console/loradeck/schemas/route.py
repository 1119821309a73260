"""A route's settings: placement, conditions of promotes, response checks and behaviour in gaps."""

from enum import StrEnum
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from loradeck.schemas.content_checks import ContentChecks
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.ids import Label, Name, Strict, added
from loradeck.schemas.judge import JUDGE, Judge

BODY_CAP = 4 * 2**20
"""Bytes of the body of one request to a router."""


class Gap(StrEnum):
    """How a router answers between an entry's arrival and its release being ready on the engine."""

    LEFT = "left"  # keep answering with the release it is leaving
    BASE = "base"  # answer with the base alone
    REFUSE = "refuse"  # 503 with Retry-After


class RouteResidency(StrEnum):
    """When the releases of a route are loaded."""

    ALWAYS = "always"  # the current one and its prior stay loaded, and a flip waits for its load
    ON_DEMAND = "on-demand"  # a flip does not wait for its load, and is never answered by the left release


class Streams(StrEnum):
    """How a router treats answers of the left release that are under way at a flip."""

    FINISH = "finish"
    CUT = "cut"


class Guard(StrEnum):
    """What happens by itself when a release that has just gone out breaks what its route promises."""

    OFF = "off"  # nothing
    ALERT = "alert"  # it is said
    HOLD = "hold"  # the pointer is held: nothing goes forward until a person clears it
    ROLLBACK = "rollback"  # the release is rolled back, as by R


class Soak(Strict, defer_build=True):
    """How long a release must have served on a pointer before R goes to it without asking."""

    seconds: float = Field(600, ge=0)
    requests: int = Field(200, ge=0)


class ResponseChecks(Strict):
    """Checks of live answers by the router, off the latency path. An answer is bad if any check fails."""

    sample: float = Field(1.0, ge=0, le=1, description="share of answers that are checked")
    answer_schema: str | None = Field(None, description="JSON Schema, as text")
    min_chars: int = Field(1, ge=0)
    max_chars: int | None = Field(None, ge=1)
    refusals: tuple[str, ...] = Field((), description="case-insensitive phrases that mark a refusal")
    finish_reasons: tuple[str, ...] = Field(
        ("stop", "length", "tool_calls"),
        description="finish reasons that are fine. Without 'length' an answer that was cut off is bad, also where "
        "the caller's own max_tokens cut it",
    )
    content: ContentChecks = added(ContentChecks(), "checks of what it says")
    judge: Judge | None = added(None, "a model that some answers are shown to; alerts only")

    @property
    def watched(self) -> tuple[str, ...]:
        """The checks that make no answer bad and that this route has."""
        return (*self.content.watched, *((JUDGE,) if self.judge is not None else ()))

    @property
    def without_plugins(self) -> Self:
        """Checks as these, without those of plug-ins."""
        return self.model_copy(update={"content": self.content.model_copy(update={"plugins": ()})})

    @model_validator(mode="after")
    def _judge_has_a_name_of_its_own(self) -> Self:
        if self.judge is not None and JUDGE in self.content.plugins:
            raise ValueError(f"the plug-in {JUDGE!r} has the name of the judge's check; name it otherwise")
        return self

    def with_content(self, content: ContentChecks, judge: Judge | None = None) -> Self:
        """Returns the same checks of form, with these of what an answer says, and this judge."""
        if (content, judge) == (self.content, self.judge):
            return self
        return self.model_copy(update={"content": content, "judge": judge})


LARGEST_SHARE = 0.4
"""The largest share that a route may promise not to exceed."""


class Objectives(Strict, defer_build=True):
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
    corrected: float | None = added(
        None, "of the feedback on answers, thumbs down and corrections; None: no promise", gt=0, le=LARGEST_SHARE
    )


class BreachLimit(Strict, defer_build=True):
    """The limits of a live release: it is breached when either share passes its limit over at least `n` answers."""

    bad: float = Field(0.10, gt=0, le=1)
    errors: float = Field(0.05, gt=0, le=1)
    n: int = Field(50, ge=1)


class KeyLimits(Strict):
    """What one caller's key may ask of one node; each node holds its callers to the whole of it. None: no limit.

    Tokens of a request are those that its answer may have (256 where it does not say) for each answer, and a token for
    every four bytes of its body.
    """

    concurrent: int | None = Field(None, ge=1, description="requests at once")
    body_bytes: int | None = Field(None, ge=BODY_CAP, description="bodies of requests in the router's memory")
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)


class NodeLimits(KeyLimits):
    """The limits of a node for routes that set none, so that no key fills its memory."""

    concurrent: int | None = Field(1024, ge=1, description="requests at once")
    body_bytes: int | None = Field(64 * 2**20, ge=BODY_CAP, description="bodies of requests in the router's memory")


class ColdQueueLimits(Strict):
    """The limits of a node for requests that wait for their release to be loaded."""

    waiting: int = Field(256, ge=0, le=10_000, description="requests that wait at once; 0: none does")
    tenant: int = Field(32, ge=1, le=10_000, description="of them, those of one tenant")
    seconds: float = Field(20.0, gt=0, le=600, description="how long one waits; then the route's gap policy answers it")
    loads: int = Field(
        4, ge=1, le=64, description="releases that are to be loaded at once; each engine loads one at a time"
    )


class Callers(KeyLimits):
    """What callers may ask of a route. Where it sets no limit, a node's counts (`[router.limits]` in agent.toml)."""

    parameters: tuple[str, ...] = Field(
        (), description="parameters of the engine that pass beside OpenAI's, such as chat_template or priority"
    )


class Pooled(Strict, defer_build=True):
    """The placement of a route in a pool: the hub assigns it to nodes of the pool."""

    pool: Name
    replicas: int = Field(1, ge=1, le=64, description="nodes that serve it")
    spread: Label = Field("", description="label in which these differ, such as zone; '': in none")


class RouteConfig(Strict):
    """All settings of a route. They are set as a whole, by an event of the log."""

    model_config = ConfigDict(defer_build=True)  # an agent has no use for it

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
    canaries: tuple[tuple[dict[str, str], ...], ...] = Field(
        (), description="fixed conversations, each a list of {role, content}, that fingerprint a release here"
    )
