"""Incidents: what went wrong on one or several pointers, from when to when, and who did and noted what.

And related releases: live releases that share something with a pointer's, so that one fault may be in all of them.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from loradeck.schemas.counts import RouteHistory
from loradeck.schemas.ids import Digest, IncidentId, Name, OfPointer, PointerKey, Reason, Strict, Wire, added
from loradeck.schemas.log import Event
from loradeck.schemas.moves import IDEMPOTENCY_KEY, Keyed
from loradeck.schemas.notice import Notice
from loradeck.schemas.state import ReleaseView

MOST_POINTERS = 200
"""Pointers that one incident has."""

MOST_OPEN = 100
"""Open incidents of one tenant; a guard opens its own beyond that."""

Text = Annotated[Reason, Field(min_length=1)]


class Suspect(Wire):
    """The release that an incident on a pointer is about, and how it came there.

    `left`: the release that was live before it. `by`: who made that move; '' where it is not known.
    """

    release: Digest
    left: Digest | None = None
    txn: str | None = None
    by: str = ""
    promoted: bool = False
    at_ms: int | None = None


class IncidentPointer(OfPointer):
    """A pointer of an incident, and since when it is one of its."""

    suspect: Suspect | None = None
    added_ms: int


class Incident(Wire):
    """An incident as the log has it. It belongs to the tenant of its first pointer.

    `guard`: a guard has opened it or acted in it.
    """

    id: IncidentId
    title: str
    by: str
    opened_ms: int
    guard: bool = False
    closed_ms: int | None = None
    closed_by: str = ""
    outcome: str = Field("", description="what was said when it was closed")
    pointers: tuple[IncidentPointer, ...] = Field(description="the first one opened it")

    @property
    def tenant(self) -> Name:
        """The tenant that it belongs to."""
        return self.pointers[0].tenant

    def at(self, key: PointerKey) -> IncidentPointer | None:
        """Finds the one of its pointers with this key; None: it is not about that one."""
        return next((one for one in self.pointers if one.key == key), None)


class PointerRef(Strict):
    """Names a pointer."""

    tenant: Name
    route: Name


class IncidentOpen(Keyed):
    """Open an incident, or add pointers to one that is open."""

    id: IncidentId | None = Field(None, description="None: the hub makes one")
    pointers: tuple[PointerRef, ...] = Field(min_length=1, max_length=MOST_POINTERS)
    relatives: bool = Field(
        False, description="add the pointers whose live release is related to what the first one's incident is about"
    )
    release: Digest | None = Field(
        None, description="what it is about on the first pointer; None: what its last move left, or the live release"
    )


class IncidentText(Strict):
    """A note for an incident, or what came of it as it is closed."""

    text: Text
    idempotency_key: str = IDEMPOTENCY_KEY


class IncidentReport(Wire):
    """An incident with what is known of its time: events and minutes of its pointers, and what people were told."""

    incident: Incident
    at_ms: int = Field(description="hub's wall clock")
    events: tuple[Event, ...] = Field(description="oldest first")
    more: int = Field(0, description="earlier events that are left out")
    histories: tuple[RouteHistory, ...] = Field((), description="of its first pointers")
    notices: tuple[Notice, ...] = Field((), description="oldest first")
    releases: dict[Digest, ReleaseView] = Field(default_factory=dict, description="those that the events name")
    samples: int | None = added(
        None, "samples that nodes which answer keep of the releases it is about; None: no tenant has any kept"
    )


class Shared(StrEnum):
    """What two live releases share, the likelier carrier of a fault first."""

    RELEASE = "release"  # it is the same one, on another route
    DATASET = "dataset"  # trained on one dataset
    RUN = "run"  # trained by one recipe
    BASE_MOVE = "base_move"  # their last moves went between the same two bases
    BATCH = "batch"  # promoted in one transaction, or by one actor within ten minutes
    SIGNER = "signer"  # signed by one key


SHARED_WORDS = {
    Shared.RELEASE: "release",
    Shared.DATASET: "dataset",
    Shared.RUN: "recipe",
    Shared.BASE_MOVE: "move",
    Shared.BATCH: "batch of",
    Shared.SIGNER: "signer",
}
"""The word that people read before a tie's name."""


class Tie(Wire):
    """One thing that two releases share, named for people: 'acme/tickets-0302', a recipe's first digits, 'B1 > B2',
    'ci-bot'.
    """

    what: Shared
    name: str


class RelatedRelease(OfPointer):
    """A pointer whose live release shares something with another. `flags` and figures are present ones, as on its own
    row.
    """

    live: ReleaseView
    ties: tuple[Tie, ...]
    flags: tuple[str, ...] = ()
    bad_now: float | None = None
    bad_n: int = 0


class RelatedReleases(OfPointer):
    """The answer to `GET /v1/tenants/{t}/routes/{r}/company`: the pointers with related releases.

    `total` counts all of them, if not all are listed. While an incident is open on the pointer they are those of the
    release that it is about.
    """

    generation: int
    total: int = 0
    incident: str | None = added(None, "the open incident it is of")
    about: str | None = added(None, "the label of the release that the incident is about")
    companions: tuple[RelatedRelease, ...] = Field((), description="likelier carriers of a fault first, then by name")
