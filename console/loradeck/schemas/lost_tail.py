"""What a hub has seen of its log, and the database does not hold any more."""

from typing import Literal

from pydantic import Field

from loradeck.schemas.ids import Digest, Name, Wire
from loradeck.schemas.log import EventKind


class LostRevs(Wire):
    """How far a hub had folded the log, and up to where the database holds the same."""

    hub: str = Field(description="name of the hub that has folded more than the database holds")
    rev: int = Field(description="newest event that it had folded")
    kept_rev: int | None = Field(description="newest of them that the database holds; None: older than it remembers")

    @property
    def words(self) -> str:
        """Both revs as a sentence."""
        kept = "an older rev than it remembers" if self.kept_rev is None else f"rev {self.kept_rev}"
        return f"the hub {self.hub} has seen the log up to rev {self.rev}; the database holds that up to {kept}"

    @property
    def short(self) -> str:
        """Both revs in few characters."""
        return f"rev {'?' if self.kept_rev is None else self.kept_rev} of {self.rev}"


class LostEvent(Wire):
    """An event that a hub has folded and the database lacks: who did what, and when."""

    rev: int
    at_ms: int = Field(description="hub's wall clock, milliseconds since 1970 UTC")
    kind: EventKind
    tenant: Name | Literal[""] = Field(description="'': the event is about the fleet")
    route: Name | None
    epoch: int
    generation: int | None = Field(description="of its pointer after it; None: it touches no pointer")
    release: Digest | None = Field(description="that was live after it")
    actor: str
    reason: str


class LostTail(LostRevs):
    """The events that a hub has folded and the database lacks."""

    epoch: int = Field(description="the newest that it knew of")
    events: tuple[LostEvent, ...] = Field(description="oldest first, as far as it remembers them")

    @property
    def revs(self) -> LostRevs:
        """Both revs, without the events."""
        return LostRevs(hub=self.hub, rev=self.rev, kept_rev=self.kept_rev)
