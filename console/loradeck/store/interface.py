"""What the hub's durable store takes, gives and raises: its records, its errors, and how long it keeps what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from loradeck.rules.moves.lease import Renewal
from loradeck.schemas.counts import HISTORY_HOURS, HISTORY_MINUTES, NO_COUNTS, Counts
from loradeck.schemas.ids import Name, PointerKey
from loradeck.schemas.log import Event, PointerState
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.tenant import TenantState

NOTICES_KEPT = 2000
"""Notices that are kept for those who list them."""

HOURS_KEPT = HISTORY_HOURS
"""Hours for which the counts of a route are kept."""

MINUTES_KEPT = HISTORY_MINUTES
"""Minutes for which the counts of a route are kept by the minute."""


class StoreError(Exception):
    """A fault of the store, or a call that it cannot fulfil. `code` is stable and goes on the wire."""

    code = "store_error"


class Moved(StoreError):
    """A pointer was no longer at the generation that was expected. Nothing was committed."""

    code = "moved"

    def __init__(self, winner: Event | None, pointer: PointerState | None) -> None:
        super().__init__("the pointer has moved since")
        self.winner = winner
        self.pointer = pointer


class LeaseLost(StoreError):
    """Another hub has taken the lease, or it ran out. Nothing was committed."""

    code = "not_active"


class LeaseHeld(StoreError):
    """Another hub holds the lease. Nothing was changed. `remaining_s`: until it runs out; None: it does not."""

    code = "lease_held"

    def __init__(self, lease: Lease, remaining_s: float | None) -> None:
        until = "until it is taken from it" if remaining_s is None else f"for {remaining_s:.1f} s more unless it renews"
        where = f" at {lease.address}" if lease.address else ""
        super().__init__(f"the hub {lease.name!r}{where} holds the lease of this database, {until}")
        self.lease = lease
        self.remaining_s = remaining_s


class OutcomeUnknown(StoreError):
    """The commit may or may not be durable: call `reopen()`, then `lookup(key)`. Never report it as not applied."""

    code = "outcome_unknown"


class DiskFull(StoreError):
    """The disk is full; the transaction was rolled back and the state is as before."""

    code = "disk_full"


class Unreachable(StoreError):
    """The database does not answer, or does not take writes now. Nothing was changed."""

    code = "store_unreachable"


class Unusable(StoreError):
    """The database cannot be used: a broken SQLite version, a newer schema, a second hub, or a corrupt file."""

    code = "store_unusable"


class Unreadable(Unusable):
    """The event at `rev` is damaged: it does not parse, or has another rev than its row."""

    def __init__(self, rev: int, why: str) -> None:
        super().__init__(why)
        self.rev = rev


class Doc(StrEnum):
    """Kinds of immutable registry documents, each stored under its digest."""

    BASE = "base"
    ADAPTER = "adapter"  # AdapterVersion
    RELEASE = "release"
    DATASET = "dataset"
    SUITE = "suite"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Who may write to a database. Each hold has a higher epoch than the one before."""

    epoch: int
    holder: str
    """A random id of the holder's process."""
    name: str
    """The hub's name, for people."""
    address: str = ""
    """Where other hubs and people reach the holder; empty where it did not say."""
    ttl_s: float | None = None
    """Seconds after which a hold that this process took ends, unless it is renewed; None: it does not end by time."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The position of a log: its id, who extends it, and its newest event."""

    log: str
    lease: Lease
    expires_ms: int | None
    """When the hold ends, by the database's clock; None: it does not end by time."""
    remaining_s: float | None
    """Seconds until the hold ends, by the database's clock; 0: it has ended; None: it does not end by time."""
    incarnation: str
    rev: int
    hash: str
    at_ms: int
    """The stamp of the newest event; 0 if there is none."""
    now_ms: int
    """The database's wall clock when this was read."""

    @property
    def renewal(self) -> Renewal:
        """The newest renewal of the lease."""
        return Renewal(epoch=self.lease.epoch, holder=self.lease.holder, expires_ms=self.expires_ms)

    @property
    def is_held(self) -> bool:
        """Whether a hub holds the lease now, by the database's clock."""
        return self.lease.holder != "" and self.remaining_s != 0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state that the log folds to at `rev`, as the store holds it.

    `log` names this history for ever: a restored copy has the same. `incarnation` is random for each hold of the lease,
    so that two copies that were both written to can be told apart.
    """

    log: str
    epoch: int
    incarnation: str
    rev: int
    hash: str
    pointers: Sequence[PointerState]
    tenants: Sequence[TenantState]
    pools: Mapping[Name, PoolConfig]


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The events of a commit. `replayed`: its key was used before, and these are the events of that first commit."""

    events: Sequence[Event]
    rev: int
    replayed: bool = False


@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class Served:
    """A release's seconds and counts on one pointer, summed over all the times it was current.

    The counts are of requests that are over: what is in flight when a hub ends is nobody's to add later. Never changed
    in place; it is not frozen for the reason that `Counts` gives.
    """

    tenant: str
    route: str
    release: str
    seconds: float = 0.0
    counts: Counts = NO_COUNTS

    def __add__(self, other: Served) -> Served:
        """Adds two parts of one release on one pointer."""
        return Served(
            tenant=self.tenant,
            route=self.route,
            release=self.release,
            seconds=self.seconds + other.seconds,
            counts=self.counts + other.counts,
        )


@dataclass(frozen=True, kw_only=True)
class StoredDocument:
    """A document of the registry as it is stored."""

    digest: str
    kind: Doc
    body: dict[str, Any]
    tenant: str | None
    created_ms: int
    created_by: str
    serial: int = field(default=0)
    """1, 2, ... in the order of registration within its kind."""


@dataclass(frozen=True, kw_only=True)
class Withdrawal:
    """A pointer that was withdrawn from a node at `rev`, and whose tombstone the node has not acknowledged.

    `refuse_after_s` is that of the entry that the node holds; None: it serves on without a hub.
    """

    node: str
    tenant: str
    route: str
    rev: int
    refuse_after_s: float | None = None

    @property
    def key(self) -> PointerKey:
        """The pointer, (tenant, route)."""
        return (self.tenant, self.route)


@dataclass(frozen=True, kw_only=True)
class FleetChange:
    """A change of what is kept of the nodes. None ends a node, or a withdrawal."""

    nodes: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)
    withdrawals: Mapping[tuple[str, PointerKey], Withdrawal | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.withdrawals)


NO_CHANGE = FleetChange()
