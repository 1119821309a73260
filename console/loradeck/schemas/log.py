"""The log: events, and the state of pointers that they fold to."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from loradeck.schemas.candidate import Candidate
from loradeck.schemas.counts import Counts, LoggedCounts
from loradeck.schemas.ids import GENESIS as GENESIS
from loradeck.schemas.ids import Digest, Name, OfPointer, Role, Wire, added


class EventKind(StrEnum):
    """What an event of the log records. The first group moves pointers; see `MOVES`."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    UNDO = "undo"
    FALLBACK = "fallback"
    REWIND = "rewind"
    RECOVER = "recover"
    CANDIDATE_START = "candidate_start"
    CANDIDATE_FINISH = "candidate_finish"  # it becomes the live release
    CANDIDATE_ABORT = "candidate_abort"

    CANDIDATE_STEP = "candidate_step"  # another share; the generation stays
    HOLD = "hold"
    RELEASE_HOLD = "release_hold"
    LIFT = "lift"  # a quarantine, a breach, or both
    PIN = "pin"  # a node reports a release that was pinned on it, over the hub's
    UNPIN = "unpin"
    DROPPED = "dropped"  # a recover left out a move that a node had witnessed
    ANNOTATE = "annotate"  # incident and reason, added afterwards
    ROUTE = "route"  # a route's settings
    TENANT_CREATE = "tenant_create"
    TENANT_SUSPEND = "tenant_suspend"
    TENANT_RESUME = "tenant_resume"
    TENANT_OFFBOARD = "tenant_offboard"
    KEY = "key"  # a caller's key was added or withdrawn
    DATA_POLICY = "data_policy"  # which rows a tenant's adapters may be trained on
    NODE_FORGET = "node_forget"  # a person vouches that a node answers nobody: it leaves all counts
    NODE_CORDON = "node_cordon"  # guard gives a node nothing more, since it answers badly for everybody on it
    QUOTA = "quota"  # what a tenant may have at the hub
    POOL = "pool"  # what makes a node one of a pool was set, or the pool was removed
    ASSIGN = "assign"  # a route of a pool is served by other nodes
    CAMPAIGN = "campaign"  # one began or ended, or a route of it has come further
    AUDIT = "audit"  # the head of the audit trail; `payload` {size, root}. Lists of events leave it out


MOVES = frozenset(
    {
        EventKind.PROMOTE,
        EventKind.ROLLBACK,
        EventKind.UNDO,
        EventKind.FALLBACK,
        EventKind.REWIND,
        EventKind.RECOVER,
        EventKind.CANDIDATE_START,
        EventKind.CANDIDATE_FINISH,
        EventKind.CANDIDATE_ABORT,
    }
)
"""Kinds that change which releases a pointer names, and so raise its generation."""


FLEET: Literal[""] = ""
"""In place of a tenant: the event is about the fleet."""

CANDIDATE_ENDED = "candidate_ended"
"""The name in a move's payload under which it says which candidate has ended without becoming the live release."""

AUTOMATION = "automation"
"""The name in an event's payload under which it says that the hub made the move by itself."""

TICKET, TICKET_WANTED = "ticket", "ticket_wanted"
"""The names in an event's payload of its change ticket, and of there being none where its route asks for one."""

PERSONAL = "personal"
"""The name in an event's payload of the kinds of personal data that its reason has, or had."""


class Quarantine(Wire):
    """A release that was rolled back from, on one pointer. It ends by a lift, or by the undo of `event`."""

    release: Digest
    event: str


class Lifted(Wire):
    """A breach that a person has lifted on one pointer, because the release was not at fault.

    The release's counts up to then do not count against it any more. A breach that is attested later counts anew.
    """

    release: Digest
    breach: int = Field(description="seq of the attestation that no longer counts")
    generation: int = Field(description="the pointer's, when it was lifted")
    live: LoggedCounts = Field(
        Counts(), description="counted in that generation; nothing, if another release was current"
    )
    total: LoggedCounts = Field(Counts(), description="counted in all the time that the release was current here")


class PointerState(OfPointer):
    """One pointer, (tenant, route): a stack of releases with a generation that only grows, as after its last event."""

    generation: int = 0
    release: Digest | None = None
    beneath: tuple[Digest, ...] = Field((), description="newest first: where R goes")
    held: bool = False
    quarantined: tuple[Quarantine, ...] = ()
    lifted: tuple[Lifted, ...] = Field((), description="the newest lift of each release")
    last_move: str | None = Field(None, description="id of the event that last moved it")
    moved_ms: int | None = Field(None, description="hub time of that event")
    moved_epoch: int = Field(0, description="epoch of that event")
    candidate: Candidate | None = added(None, "a second release, that a share of callers gets")


class Draft(Wire):
    """An event before the store gives it a rev and a place in the chain.

    `pointer` is the state after it. For a move its generation is one above the one before, and the store fills in
    `last_move`, `moved_ms` and `moved_epoch`; for other kinds that touch a pointer they stay as they were. The store
    checks `expected_generation` inside its transaction.
    """

    kind: EventKind
    tenant: Name | Literal[""]
    route: Name | None = None
    pointer: PointerState | None = None
    expected_generation: int | None = None
    from_release: Digest | None = None
    actor: str
    role: Role
    reason: str = ""
    incident: str | None = None
    override: bool = False
    undoes: tuple[str, ...] = Field((), description="ids of the events an undo reverses")
    payload: dict[str, Any] = Field(default_factory=dict, description="further facts, by kind")
    token: str | None = Field(None, description="id of the actor's token; None: it had none")


class Event(Wire):
    """One line of the log. `hash` covers every other field, `prev_hash` included.

    The hash is computed from the canonical JSON without the fields that are at their default, so that a field added in
    a later version leaves the hashes of earlier events unchanged.
    """

    rev: int = Field(ge=1, description="gap-free and in commit order")
    id: str = Field(description="random, 32 hex characters")
    txn: str = Field(description="shared by the events that were committed together")
    epoch: int
    kind: EventKind
    tenant: Name | Literal[""] = Field(description="'': the event is about the fleet")
    route: Name | None
    pointer: PointerState | None = Field(description="as this event left it")
    from_release: Digest | None
    actor: str
    role: Role
    reason: str
    incident: str | None
    override: bool
    undoes: tuple[str, ...]
    payload: dict[str, Any]
    token: str | None = added(
        None, "id of the actor's token; None: the hub itself, its own socket, or an earlier version"
    )
    at_ms: int = Field(description="hub's wall clock, milliseconds since 1970 UTC")
    prev_hash: Digest
    hash: Digest

    @property
    def is_listed(self) -> bool:
        """Whether people see it among the events."""
        return self.kind is not EventKind.AUDIT

    @property
    def ticket(self) -> str | None:
        """The change ticket that it was made under, or that it gives to an earlier event; None: it names none."""
        said = self.payload.get(TICKET)
        return said if isinstance(said, str) else None

    @property
    def wants_ticket(self) -> bool:
        """Whether its route asked for a change ticket, and it was made without one."""
        return self.payload.get(TICKET_WANTED) is True

    @property
    def one_copy(self) -> bool:
        """Whether one server of the database alone had it when it was acknowledged."""
        return self.payload.get("copies") == 1

    @property
    def where(self) -> str:
        """What the event is about, for a person: tenant and route, a tenant, a pool, or a node."""
        if "pool" in self.payload and self.tenant == FLEET:
            return f"pool {self.payload['pool']}"
        if "campaign" in self.payload and self.tenant == FLEET:
            return f"campaign {self.payload['campaign']}"
        if self.tenant == FLEET:
            return f"node {self.payload.get('node', '')}"
        return f"{self.tenant}/{self.route}" if self.route else self.tenant

    @property
    def to_release(self) -> str | None:
        """The release that the pointer names after the event; for a pin or a dropped move, the one that it is about."""
        if self.kind in (EventKind.PIN, EventKind.DROPPED):
            release = self.payload["release"]
            return None if release is None else str(release)
        return self.pointer.release if self.pointer else None

    @property
    def path(self) -> tuple[str | None, str | None]:
        """The releases that callers went from and to. At the start of a candidate, and at its steps, they go from the
        live release to the candidate; where it ends and the live release stays, they go back.
        """
        if self.pointer is None or self.pointer.release != self.from_release:
            return self.from_release, self.to_release
        if self.kind in (EventKind.CANDIDATE_START, EventKind.CANDIDATE_STEP) and self.pointer.candidate is not None:
            return self.from_release, self.pointer.candidate.release
        return self.payload.get(CANDIDATE_ENDED) or self.from_release, self.to_release

    @property
    def left(self) -> str | None:
        """The release that the event took from all callers who had it; None if it took none."""
        left, to = self.path
        return None if self.kind is EventKind.CANDIDATE_START or left == to else left

    @property
    def generation(self) -> int | None:
        """The pointer's generation after the event; None if the event touches no pointer."""
        return self.pointer.generation if self.pointer else None
