"""What is asked of a pointer, and what comes back."""

from __future__ import annotations

from pydantic import Field

from loradeck.schemas.ids import Digest, Name, Reason, Strict, Wire
from loradeck.schemas.log import Event

IDEMPOTENCY_KEY = Field(
    min_length=8, max_length=100, description="chosen by the caller; the same key never moves twice"
)


class PromoteRequest(Strict):
    release: Digest
    expected_generation: int
    idempotency_key: str = IDEMPOTENCY_KEY
    override: bool = False
    reason: Reason = ""
    incident: str | None = None


class MergedRelease(Strict):
    """Merged weights to be served as a release: an engine of their own runs them, found by their digest."""

    tenant: Name
    adapter: Digest = Field(description="release of the adapter that was merged into its base")
    merged: Digest = Field(description="digest of the merged weights, registered as a base")


class RollbackRequest(Strict):
    """`to` is the target the caller saw. `confirmed` accepts a target that has not soaked.

    `cancels` names the pending prepare the caller saw: then nothing moves and that prepare is cancelled.
    """

    expected_generation: int
    to: Digest | None = None
    cancels: str | None = None
    confirmed: bool = False
    idempotency_key: str = IDEMPOTENCY_KEY
    reason: Reason = ""
    incident: str | None = None


class UndoRequest(Strict):
    """Undo of one event, or of every event of a txn. Each pointer must not have moved since."""

    event: str | None = None
    txn: str | None = None
    idempotency_key: str = IDEMPOTENCY_KEY
    reason: Reason = ""


class FallbackRequest(Strict):
    expected_generation: int
    idempotency_key: str = IDEMPOTENCY_KEY
    reason: Reason = ""


class HoldRequest(Strict):
    held: bool
    expected_generation: int
    idempotency_key: str = IDEMPOTENCY_KEY
    reason: Reason = ""


class LiftRequest(Strict):
    """Ends the quarantine of a release on a pointer, and its breach."""

    release: Digest
    idempotency_key: str = IDEMPOTENCY_KEY
    reason: Reason = Field(min_length=1)


class AnnotateRequest(Strict):
    event: str
    incident: str | None = None
    reason: Reason = ""
    idempotency_key: str = IDEMPOTENCY_KEY


class UnpinRequest(Strict):
    node: str
    idempotency_key: str = IDEMPOTENCY_KEY
    reason: Reason = ""


class RewindRequest(Strict):
    """Every selected pointer as it was at `to_rev`, or at the last rev committed at or before `time_ms`.

    `dry_run` returns the plan; executing sends that plan's `generations` back.
    """

    to_rev: int | None = None
    time_ms: int | None = None
    tenants: tuple[str, ...] = Field((), description="none selects all")
    dry_run: bool = True
    generations: dict[str, int] = Field(default_factory=dict, description="'tenant/route' -> generation in the plan")
    idempotency_key: str = IDEMPOTENCY_KEY
    reason: Reason = ""
    incident: str | None = None


class RewindStep(Wire):
    tenant: str
    route: str
    generation: int
    from_release: Digest | None
    to_release: Digest | None
    from_label: str | None = Field(None, description="what people call it: 'v9/B2'")
    to_label: str | None = None
    skipped: str | None = Field(None, description="why it stays; None: it moves")


class RewindPlan(Wire):
    to_rev: int
    at_ms: int | None = Field(description="when that rev was committed")
    steps: tuple[RewindStep, ...]


class MoveResult(Wire):
    """`events` are empty where nothing moved (a prepare was cancelled; a rewind changed nothing)."""

    events: tuple[Event, ...]
    rev: int
    epoch: int
    replayed: bool = Field(False, description="the key had been used: this is that move's result again")
    cancelled: str | None = Field(None, description="the prepare that was cancelled")
    pending: str | None = Field(None, description="the promote's prepare, when the wait ended before its commit")
    skipped: tuple[RewindStep, ...] = Field((), description="of a rewind: pointers that stayed, and why")
    reached: str | None = Field(None, description="with ?wait: committed, flipped or proven, as far as it got")
    commit_ms: float | None = Field(None, description="request received to committed, hub's monotonic clock")
    flipped_ms: float | None = Field(None, description="committed to the last router's acknowledgement")
    proven_ms: float | None = Field(None, description="committed to the last replica's proof")
