"""Requests that move pointers, sent by consoles and the CLI, and the hub's answers."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from loradeck.schemas.candidate import Figure, StepPlan
from loradeck.schemas.ids import LARGEST_INT, Digest, Name, Reason, Strict, Ticket, Wire, added
from loradeck.schemas.log import Event
from loradeck.schemas.lost_tail import LostTail
from loradeck.schemas.table import LEASE_S, CohortUnit

IncidentName = Annotated[str, StringConstraints(max_length=200)]
"""What a move calls the incident that it belongs to: its id, or a name in another system."""

IDEMPOTENCY_KEY = Field(min_length=8, max_length=100, description="chosen by the caller; one key never moves twice")
"""Chosen by the caller before the first attempt and kept for every further one."""

UNDER_TICKET = added(None, "the change ticket under which it is made")
"""The change ticket under which a move is made; None: none, or it is given afterwards."""

MOST_NAMED = 100
"""Keys that a candidate's start may name."""

MOST_UNDONE = 1000
"""Events that one undo may name."""


class Keyed(Strict):
    """What every request carries that changes the log."""

    idempotency_key: str = IDEMPOTENCY_KEY
    reason: Reason = ""


class _OfPointer(Keyed):
    """What every request carries that changes one pointer, as its caller saw it."""

    expected_generation: int


class PromoteRequest(_OfPointer):
    """Promote a release on a pointer. `override` passes some refusals and needs a reason; see
    `rules.moves.forward`.
    """

    release: Digest
    override: bool = False
    incident: IncidentName | None = None
    break_glass: bool = added(False, "on the hub's host: nobody else is asked where the route asks for two people")
    ticket: Ticket | None = UNDER_TICKET
    on_demand: bool = added(False, "as the preview said: the route's first release, and with it the route on demand")


class CandidateStartRequest(PromoteRequest):
    """Start a candidate: what a promote says, and which of the callers get it. The live release stays."""

    permille: int = Field(0, ge=0, le=1000, description="share of the keys, in thousandths")
    unit: CohortUnit = CohortUnit.CALLER
    named: tuple[Annotated[str, Field(min_length=1, max_length=512)], ...] = Field(
        (),
        max_length=MOST_NAMED,
        description="get it whatever the share is: users, conversations, or ids of callers' keys",
    )
    lease_s: float = Field(LEASE_S, ge=10, le=86_400, description="seconds without a hub after which nobody gets it")
    shadow: bool = added(
        False, "nobody gets it: the share is of the requests, which it is asked too, behind the callers"
    )
    plan: StepPlan | None = added(None, "by which the hub steps the share by itself")


class _OfShare(_OfPointer):
    """What changes a candidate's share. `override` passes some refusals of a wider one, and needs a reason."""

    expected_step: int = Field(description="the step that the caller saw")
    override: bool = added(False)
    break_glass: bool = added(False, "as of a promote")
    ticket: Ticket | None = UNDER_TICKET


class CandidateStepRequest(_OfShare):
    """Change the share of a candidate."""

    permille: int = Field(ge=0, le=1000)


class CandidateCompareRequest(_OfShare):
    """Begin an A/B on a candidate that is out. It ends at `until_ms`, or once each arm has `keys`: one of the two."""

    figure: Figure
    until_ms: int | None = None
    keys: int | None = None
    permille: int | None = Field(None, ge=1, le=999, description="the share from now on; None: as it is")


class CandidateHoldRequest(_OfPointer):
    """Have the hub step a candidate no more by its plan (`held`), or again."""

    held: bool


class CandidateFinishRequest(PromoteRequest):
    """Make the candidate the live release: a promote of what is loaded already. `release`: it, as the caller saw it."""


class CandidateAbortRequest(_OfPointer):
    """End a candidate: all callers get the live release, and nothing is held or quarantined."""

    ticket: Ticket | None = UNDER_TICKET


class MergedRelease(Strict):
    """Register merged weights as a release. An engine of their own runs them, found by their digest."""

    tenant: Name
    adapter: Digest = Field(description="release of the adapter that was merged into its base")
    merged: Digest = Field(description="digest of the merged weights, registered as a base")


class RollbackRequest(_OfPointer):
    """Roll a pointer back (R). `to` is the target the caller saw; `confirmed` accepts one that has not soaked.

    `cancels` names the pending prepare the caller saw: then that prepare is cancelled and nothing moves.
    """

    to: Digest | None = None
    cancels: str | None = None
    confirmed: bool = False
    incident: IncidentName | None = None
    ticket: Ticket | None = UNDER_TICKET


class UndoRequest(Keyed):
    """Undo one event, several of different pointers, or every event of a transaction: all of them or none.

    Each pointer must not have moved since. `confirmed` accepts what `TenantRow.undo_asks` warns of.
    """

    event: str | None = None
    events: tuple[str, ...] = Field((), max_length=MOST_UNDONE)
    txn: str | None = None
    confirmed: bool = False
    ticket: Ticket | None = UNDER_TICKET


class FallbackRequest(_OfPointer):
    """Fall back to the base alone (F)."""

    ticket: Ticket | None = UNDER_TICKET


class HoldRequest(_OfPointer):
    """Hold a pointer against promotes, or clear its hold (`held` False)."""

    held: bool


class LiftRequest(Keyed):
    """Lift the quarantine and the breach of a release on a pointer."""

    release: Digest
    reason: Reason = Field(min_length=1)


class AnnotateRequest(Keyed):
    """Add an incident, a reason or both to a past event."""

    event: str
    incident: IncidentName | None = None
    ticket: Ticket | None = UNDER_TICKET


class CountersignRequest(Keyed):
    """Say that one has seen what somebody else did alone, where two people are asked for."""

    event: str = Field(max_length=200)


class UnpinRequest(Keyed):
    """End a node's pin of a pointer."""

    node: str


class ForgetRequest(Keyed):
    """Forget a node that is not linked: whoever asks vouches that it answers nobody."""

    reason: Reason = Field(min_length=1)


class Rewinding(Keyed):
    """What every rewind carries. With `dry_run` the hub returns the plan; executing sends its `generations` back."""

    dry_run: bool = True
    generations: dict[str, int] = Field(default_factory=dict, description="'tenant/route' -> generation in the plan")
    incident: IncidentName | None = None
    ticket: Ticket | None = UNDER_TICKET


class RewindRequest(Rewinding):
    """Move every selected pointer back to its release at `to_rev`, or at the last rev committed up to `time_ms`."""

    to_rev: int | None = None
    time_ms: int | None = Field(None, ge=0, le=LARGEST_INT)
    tenants: tuple[str, ...] = Field((), description="none selects all")


class RewindStep(Wire):
    """One pointer of a rewind's plan: the release it leaves, the one it gets, and why it stays if it does."""

    tenant: str
    route: str
    generation: int
    from_release: Digest | None
    to_release: Digest | None
    from_label: str | None = Field(None, description="the release's label: 'v9/B2'")
    to_label: str | None = None
    candidate: Digest | None = added(None, "ends with it: all callers get `to_release`")
    skipped: str | None = Field(None, description="why it stays; None: it moves")


class RewindPlan(Wire):
    """The plan of a rewind to `to_rev`, sorted by pointer."""

    to_rev: int
    at_ms: int | None = Field(description="when that rev was committed")
    steps: tuple[RewindStep, ...]

    def carried_out(self, request: RewindRequest) -> RewindRequest:
        """Makes the request that makes the plan's moves and no others, whatever was committed since."""
        moving = {f"{step.tenant}/{step.route}": step.generation for step in self.steps if step.skipped is None}
        return request.model_copy(update={"to_rev": self.to_rev, "time_ms": None, "generations": moving})


class RecoveryMove(Wire):
    """A move that nodes hold, or a hub had folded, and the log lacks, and what a recover does with it."""

    epoch: int
    generation: int
    release: Digest | None
    label: str
    nodes: tuple[str, ...] = Field(description="that hold it in their tables, and hubs that had folded it")
    why: str


class RecoveryStep(Wire):
    """One pointer of a recovery: what the log has, what would be adopted in its place, and what dropped."""

    tenant: str
    route: str
    epoch: int = Field(description="of the pointer's last move in the log")
    generation: int
    release: Digest | None
    label: str
    adopted: RecoveryMove | None = None
    dropped: tuple[RecoveryMove, ...] = ()


class RecoveryNode(Wire):
    """A node in a recovery: whether its table is known."""

    node: str
    state: Literal["answered", "known", "silent", "away", "unproven"] = Field(
        description="known: what it had seen is, from an earlier link; silent: linked, and it did not send its table; "
        "unproven: linked, and not believed"
    )
    behind: str | None = Field(description="why it is not sent everything: log_behind, log_unproven")
    unsigned: int = Field(0, description="entries of its table that no hub of this log has signed, and are passed over")


class RecoveryPlan(Wire):
    """What a recover would append to the log. Executing sends the digest back, and is refused if it no longer fits."""

    digest: Digest
    rev: int
    epoch_above: int = Field(description="the new epoch is above this one")
    steps: tuple[RecoveryStep, ...]
    further: tuple[str, ...] = Field(description="events that move nothing: tenants, routes, keys, suspensions")
    nodes: tuple[RecoveryNode, ...]
    lost: tuple[LostTail, ...] = added((), "what hubs had folded and the database does not hold")


class RecoverRequest(Keyed):
    """A recover. With `dry_run` the hub returns the plan; executing sends the plan's digest back."""

    unproven: bool = Field(False, description="believe nodes too that have no signature for what they have seen")
    dry_run: bool = True
    plan: Digest | None = None


class MoveResult(Wire):
    """The hub's answer to a move. `events` is empty if nothing moved (a prepare was cancelled; a rewind changed
    nothing).
    """

    events: tuple[Event, ...]
    rev: int
    epoch: int
    replayed: bool = Field(False, description="the key was used before: this repeats that move's result")
    cancelled: str | None = Field(None, description="the prepare that was cancelled")
    already: Event | None = added(
        None, "of R: the hub's own move that put all callers on the target before it; nothing more moved"
    )
    pending: str | None = Field(None, description="the promote's prepare, when the wait ended before its commit")
    skipped: tuple[RewindStep, ...] = Field((), description="of a rewind: pointers that stayed, and why")
    reached: str | None = Field(
        None, description="the level that all its replicas have reached: committed, flipped, listed or proven"
    )
    copies: int | None = added(None, "1: the database's standby was gone, and one server alone has it")
    commit_ms: float | None = Field(None, description="request received to committed, hub's monotonic clock")
    flipped_ms: float | None = Field(None, description="committed to the last router's acknowledgement")
    proven_ms: float | None = Field(None, description="committed to the last replica's proof; None: not proven on all")
