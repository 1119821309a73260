"""Promotes that failed while they were prepared: which of them still need a person, and what answers one.

A promote that failed moved nothing, and the release before it serves on. The pointer needs a person until it is
promoted again or moves, or a person holds it, releases its hold or annotates one of its events.
"""

from collections.abc import Iterable

from loradeck.rules.quality.break_glass import countersigned_by
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.jobs import Job, JobState, PrepareSpec
from loradeck.schemas.log import MOVES, Event, EventKind

ANSWERED_BY = "answered_by"
"""Key in the result of a failed prepare: the id of the event that answered it."""

_NOTES = frozenset({EventKind.HOLD, EventKind.RELEASE_HOLD, EventKind.ANNOTATE})


def answers(event: Event) -> bool:
    """Tells whether an event answers a failed promote of its pointer: it moved it, or a person held or annotated it."""
    noted = event.kind in _NOTES and event.role is not Role.AGENT and countersigned_by(event) is None
    return event.kind in MOVES or noted


def unanswered(jobs: Iterable[Job]) -> dict[PointerKey, Job]:
    """The failed prepares that still need a person, by pointer; `jobs` in the order they were begun.

    Only the newest prepare of a pointer counts: one that R cancelled, or that committed, leaves nothing to answer.
    """
    newest = {(job.spec.tenant, job.spec.route): job for job in jobs if isinstance(job.spec, PrepareSpec)}
    return {
        key: job
        for key, job in newest.items()
        if job.state is JobState.FAILED and ANSWERED_BY not in (job.result or {})
    }
