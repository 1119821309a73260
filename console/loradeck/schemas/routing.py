"""The settings of a route that routers go by: gaps, residency, checks of answers, limits, and a candidate's share."""

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from loradeck.schemas.content_checks import ContentChecks
from loradeck.schemas.ids import Strict, Wire, added
from loradeck.schemas.judge import JUDGE, Judge

BODY_CAP = 4 * 2**20
"""Bytes of the body of one request to a router."""


LEASE_S = 300.0
"""Seconds without a hub after which a router gives a candidate to nobody."""


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
        """These checks without those of plug-ins."""
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


class CohortUnit(StrEnum):
    """The key of a request that decides between the live release and the candidate; all requests of one key agree."""

    CONVERSATION = "conversation"
    USER = "user"
    CALLER = "caller"


class Split(Wire):
    """The division of a pointer's callers between its live release and its candidate.

    `generation` and `step` order splits: a later start has a higher generation, and a later share of the same start a
    higher step.
    """

    generation: int = Field(ge=1, description="the pointer's, which the start of the candidate gave it")
    step: int = Field(0, ge=0, description="how often the share has been changed since the start")
    permille: int = Field(
        0, ge=0, le=1000, description="thousandths of the keys that get it; of a shadow, of the requests"
    )
    salt: str = Field(min_length=8, max_length=64, description="random for each start: other keys go first each time")
    lease_s: float = Field(LEASE_S, gt=0, description="seconds without a hub after which nobody gets the candidate")
    unit: CohortUnit = CohortUnit.CALLER
    named: tuple[str, ...] = Field((), description="keys that get the candidate whatever the share is")
    shadow: bool = Field(False, description="it is asked copies of requests, and its answers reach nobody")
