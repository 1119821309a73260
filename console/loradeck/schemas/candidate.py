"""Candidates: a second release on top of a pointer's stack, that a share of the callers gets."""

from enum import StrEnum

from pydantic import Field

from loradeck.schemas.ids import Digest, Wire

LEASE_S = 300.0
"""Seconds without a hub after which a router gives a candidate to nobody."""


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
        0,
        ge=0,
        le=1000,
        description="thousandths of the keys that get it; of a shadow, of the requests",
    )
    salt: str = Field(min_length=8, max_length=64, description="random for each start: other keys go first each time")
    lease_s: float = Field(LEASE_S, gt=0, description="seconds without a hub after which nobody gets the candidate")
    unit: CohortUnit = CohortUnit.CALLER
    named: tuple[str, ...] = Field((), description="keys that get the candidate whatever the share is")
    shadow: bool = Field(False, description="it is asked copies of requests, and its answers reach nobody")


class Candidate(Split):
    """The candidate of a pointer, as the log has it."""

    release: Digest
