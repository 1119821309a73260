"""A route's settings: where it may run, what binds it forward, what counts as bad."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from loradeck.schemas.gate import GateConfig
from loradeck.schemas.ids import Strict


class Gap(StrEnum):
    """What a router does between a directive and the release being ready on its engine."""

    LEFT = "left"  # go on with the release it is leaving
    BASE = "base"  # answer with the base alone
    REFUSE = "refuse"  # 503 with Retry-After


class Streams(StrEnum):
    """What becomes of answers of the left release that are under way at a flip."""

    FINISH = "finish"
    CUT = "cut"


class Soak(Strict):
    """How long a release must have served on a pointer before R goes to it without asking."""

    seconds: float = Field(600, ge=0)
    requests: int = Field(200, ge=0)


class ResponseChecks(Strict):
    """What a router checks on live answers, off the latency path. An answer is bad when any check fails."""

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


class BreachLimit(Strict):
    """A release is breached when, over at least `n` checked answers, either share passes its limit."""

    bad: float = Field(0.10, gt=0, le=1)
    errors: float = Field(0.05, gt=0, le=1)
    n: int = Field(50, ge=1)


class RouteConfig(Strict):
    placement: dict[str, str] = Field(default_factory=dict, description="labels a node must carry; {} is any node")
    min_replicas: int = Field(1, ge=1, description="proven replicas a generation needs to be attested")
    soak: Soak = Soak()
    gate: GateConfig | None = None
    breach: BreachLimit = BreachLimit()
    checks: ResponseChecks = ResponseChecks()
    gap: Gap = Gap.LEFT
    streams: Streams = Streams.FINISH
    fallback: bool = Field(True, description="base alone may stand in where no release can")
    refuse_after_s: float | None = Field(None, ge=0, description="on hub loss: None serves on; else refuse after")
    freeze: tuple[tuple[int, int], ...] = Field((), description="[from_ms, to_ms) during which nothing is promoted")
    signers: tuple[str, ...] = Field(
        (), description="public keys (PEM); where there are any, only what one of them signed is served"
    )
    canaries: tuple[tuple[dict[str, str], ...], ...] = Field(
        (), description="fixed conversations, each a list of {role, content}, that fingerprint a release here"
    )
