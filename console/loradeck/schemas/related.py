"""Company: which other live releases share something with a pointer's, so that one fault may be in all of them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from loradeck.schemas.ids import Name, Wire
from loradeck.schemas.state import ReleaseView


class Shared(StrEnum):
    """What two live releases share, the likelier carrier of a fault first."""

    DATASET = "dataset"  # trained on the same rows
    RUN = "run"  # trained by the same recipe
    BASE_MOVE = "base_move"  # their last move went from the same base to the same other one
    BATCH = "batch"  # promoted in one transaction, or by the same actor within ten minutes


class Tie(Wire):
    """`name`: what is shared, for people: 'acme/tickets-0302', a recipe's first digits, 'B1 > B2', 'ci-bot'."""

    what: Shared
    name: str


class Companion(Wire):
    """A pointer whose live release shares something. `flags` and figures are of now, as on its own row."""

    tenant: Name
    route: Name
    live: ReleaseView
    ties: tuple[Tie, ...]
    flags: tuple[str, ...] = ()
    bad_now: float | None = None
    bad_n: int = 0


class Company(Wire):
    """`GET /v1/tenants/{t}/routes/{r}/company`. `total` says how many there are where not all are listed."""

    tenant: Name
    route: Name
    generation: int
    total: int = 0
    companions: tuple[Companion, ...] = Field((), description="the likelier carriers first, then by name")
