"""Related releases: live releases that share something with a pointer's, so that one fault may be in all of them."""

from enum import StrEnum

from pydantic import Field

from loradeck.schemas.ids import OfPointer, Wire, added
from loradeck.schemas.state import ReleaseView


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
