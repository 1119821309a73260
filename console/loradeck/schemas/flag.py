"""A flag on a live release: that its answers are bad now, whose doing it is, and what it rules out."""

from enum import StrEnum

from pydantic import Field

from loradeck.schemas.ids import Line, Strict, Whole


class FlagCause(StrEnum):
    """Whose doing bad or failed answers are."""

    RELEASE = "release"
    REQUESTS = "requests"
    """What is asked has changed: the release beneath does no better on the same."""
    CALLERS = "callers"
    """One caller alone has most of the bad answers."""
    NODE = "node"
    ENGINE = "engine"
    """Engines were away."""
    BASE = "base"
    """What all tenants on those nodes share."""
    UNKNOWN = "unknown"


class FlagState(StrEnum):
    """What a flag means for its release."""

    RAISED = "raised"
    """Answers are bad now."""
    ENDED = "ended"
    """Answers are bad no longer. What the flag has ruled out stays ruled out."""
    CLEARED = "cleared"
    """Nothing is held against the release any more."""


class FlagRecord(Strict):
    """What a hub attests of a flag, as it is raised, changes its cause, ends or is cleared. The newest one counts."""

    state: FlagState
    figure: str = Field(description="'bad' or 'errors': the share that is past its limit")
    bad: Whole = Field(description="units that were bad since the change point")
    n: Whole = Field(description="units since the change point")
    since_ms: int = Field(ge=0, description="the change point, hub's wall clock, milliseconds since 1970 UTC")
    raised_ms: int = Field(0, ge=0, description="when it was raised, by which its records are told from other flags'")
    cause: FlagCause = FlagCause.UNKNOWN
    who: Line = Field(
        "", description="the node by whose word alone, the engines, or the caller; '': nobody in particular"
    )
    why: Line = Field("", description="why it has ended or is cleared")

    @property
    def counts_against(self) -> bool:
        """Whether the release is ruled out by it, until it is cleared."""
        return self.cause is FlagCause.RELEASE and self.state is not FlagState.CLEARED

    @property
    def is_doubt(self) -> bool:
        """Whether nobody knows whose doing it was, so that a person is asked before the release is gone back to."""
        return self.cause is FlagCause.UNKNOWN and self.state is not FlagState.CLEARED

    def __str__(self) -> str:
        """Writes it for a person: `errors 11.0% of 82, cause unknown`, or `bad 31.0% of 700, by gpu-01 alone`."""
        share = f"{self.figure} {self.bad / self.n:.1%} of {self.n}" if self.n else self.figure
        words = self.who
        if self.cause is not FlagCause.RELEASE:
            words = f"cause {self.cause.value}" + (f" ({self.who})" if self.who else "")
        return f"{share}, {words}" if words else share
