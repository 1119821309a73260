"""Moves this console has sent: the phase of each (sending, committed, refused, unknown), and how far a row's move is.

Nothing here sends anything. A move's request is made once, with its idempotency key, and every further
attempt and look-up uses that key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from loradeck.rules.serving import proof
from loradeck.rules.serving.proof import Reached
from loradeck.schemas.campaign import CampaignRewind
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import IncidentOpen
from loradeck.schemas.log import Event
from loradeck.schemas.moves import (
    AnnotateRequest,
    FallbackRequest,
    HoldRequest,
    MoveResult,
    PromoteRequest,
    RewindRequest,
    RollbackRequest,
    UndoRequest,
)
from loradeck.schemas.review import Review
from loradeck.schemas.state import PreviewAction, TenantRow
from loradeck.tui.keys.action import Action

Request = (
    RollbackRequest
    | UndoRequest
    | FallbackRequest
    | HoldRequest
    | PromoteRequest
    | RewindRequest
    | AnnotateRequest
    | IncidentOpen
)


@dataclass(frozen=True)
class Move:
    """One request, as it will be sent. A rewind or its undo is to many pointers: then `tenant` and `route` are ""."""

    kind: Action
    tenant: str
    route: str
    request: Request
    says: str
    """For people: 'R acme/production v9/B2 > v7/B2'."""

    @property
    def row(self) -> PointerKey:
        """The pointer that it moves."""
        return (self.tenant, self.route)

    @property
    def key(self) -> str:
        """The idempotency key of its request."""
        return self.request.idempotency_key

    def because(self, reason: str) -> Move:
        """A copy of the move with the reason that a person typed."""
        return Move(self.kind, self.tenant, self.route, self.request.model_copy(update={"reason": reason}), self.says)


@dataclass(frozen=True)
class Order:
    """An order to a node, a job or a campaign. `subject`: the node's or campaign's name or the job's id.

    `seen`: the subject's state when the question was asked; the question is dropped when that has changed.
    """

    action: Action
    subject: str
    says: str
    seen: str
    rewind: CampaignRewind | None = None
    """What of a campaign is put back, as it was planned."""


@dataclass(frozen=True)
class Signing:
    """A person's review of a candidate on a route, as it will be sent; the hub writes the name under it."""

    tenant: str
    route: str
    review: Review
    says: str


class Phase(StrEnum):
    """How far a move has come, as far as this console knows."""

    SENDING = "sending"
    COMMITTED = "committed"
    PENDING = "pending"  # a promote whose prepare runs on
    CANCELLED = "cancelled"  # R cancelled a prepare; nothing moved
    ALREADY = "already"  # the hub's own move had put all callers on R's target before; nothing more moved
    REFUSED = "refused"  # the hub said no; nothing moved
    NOT_SENT = "not_sent"  # the hub could not be reached; nothing moved
    UNKNOWN = "unknown"  # sent, and the answer was lost


OPEN = frozenset({Phase.SENDING, Phase.UNKNOWN})
"""Phases in which the move may still happen or have happened without this console knowing."""

LOOKED_UP = frozenset({Phase.UNKNOWN, Phase.PENDING})
"""Phases in which no answer is on its way any more: the hub is asked by the move's key."""


@dataclass
class OwnMove:
    """A move of this console. Times are by its monotonic clock, in seconds, unless they end in `_ms`."""

    move: Move
    sent_at: float
    sent_ms: int
    phase: Phase = Phase.SENDING
    result: MoveResult | None = None
    answered_at: float | None = None
    trouble: str = ""
    together: tuple[OwnMove, ...] = field(default=(), repr=False, compare=False)
    """The moves of marked rows that one key sent, this one among them; empty where it was sent alone."""

    @property
    def event(self) -> Event | None:
        """The committed event on this move's pointer."""
        if self.result is None:
            return None
        for event in self.result.events:
            if (event.tenant, event.route) == self.move.row:
                return event
        return None

    @property
    def generation(self) -> int | None:
        """The generation of this move's pointer since, once it is committed."""
        event = self.event
        return event.generation if event else None

    @property
    def moved(self) -> dict[PointerKey, int]:
        """Every pointer that this move committed, and its generation since."""
        events = self.result.events if self.result is not None and self.phase is Phase.COMMITTED else ()
        return {
            (event.tenant, event.route): event.generation
            for event in events
            if event.route is not None and event.generation is not None
        }


def committed_event(move: Move, events: Iterable[Event], actor: str) -> Event | None:
    """The event that a move of one pointer made, among events of the log; None: not among them.

    A generation of a pointer exists once, and an event is undone once, so an event of this actor and kind with the
    generation after the expected one is this move, or one that was decided on the same screen and did the same.
    """
    request = move.request
    for event in events:
        if (event.tenant, event.route, event.actor, event.kind.value) != (*move.row, actor, move.kind.value):
            continue
        match request:
            case UndoRequest() if request.event is not None and request.event in event.undoes:
                return event
            case RollbackRequest(to=release) | PromoteRequest(release=release) if (
                event.generation == request.expected_generation + 1 and event.to_release == release
            ):
                return event
            case FallbackRequest() if event.generation == request.expected_generation + 1:
                return event
    return None


@dataclass(frozen=True)
class Tell:
    """The last result, kept on the screen until esc or the next one. `style` names an entry of the theme.

    `closes`: esc closes it; not while the outcome is open.
    """

    text: str
    style: str = ""
    at_ms: int | None = None
    closes: bool = True


def reached(row: TenantRow) -> Reached:
    """Says how far the row's generation has come on all its placed replicas."""
    return proof.reached(placed=row.placed, flipped=row.flipped, proven=row.proven, listed=row.listed)


def is_done(row: TenantRow) -> bool:
    """Tells whether every placed replica flipped and was checked. `settled` says only that no reachable one owes it."""
    return row.settled and reached(row).covers(Reached.LISTED)


def is_preparing(own: OwnMove | None, row: TenantRow) -> bool:
    """Tells whether a move without an answer is a promote whose prepare is pending, which R cancels."""
    is_promote = own is not None and own.move.kind is Action.PROMOTE
    return is_promote and row.preview.action is PreviewAction.CANCEL_PREPARE


def proof_counts(row: TenantRow) -> str:
    """The counts of the proof in words: `PROVEN 4/4`, `PROVEN 3/4 LISTED 1/4`; where none is proven, `LISTED 4/4`."""
    counts = [f"PROVEN {row.proven}/{row.placed}"] if row.proven or not row.listed else []
    return " ".join([*counts, *([f"LISTED {row.listed}/{row.placed}"] if row.listed else [])])
