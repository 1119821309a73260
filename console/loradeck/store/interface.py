"""The interface of the hub's durable store. No code above this package knows which database is behind it.

A store is used from one thread. Every write is one transaction, durable when the call returns. The contract suite in
`tests/contract/store` runs against every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, Unpack

from loradeck.schemas.attestation import Attestation, AttestationFilter
from loradeck.schemas.audit import AuditDraft
from loradeck.schemas.audit_head import AuditHead
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.history import WEEK
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import Draft, Event, PointerState
from loradeck.schemas.notice import Delivery, Notice, NoticeRow
from loradeck.schemas.tenant import TenantState, TokenRecord

HOUR_MS = 3_600_000
"""Milliseconds of an hour."""

MINUTE_MS = 60_000
"""Milliseconds of a minute."""

NOTICES_KEPT = 2000
"""Notices that are kept for those who list them."""

HOURS_KEPT = 400 * 24
"""Hours for which the counts of a route are kept."""

MINUTES_KEPT = WEEK
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
    def is_held(self) -> bool:
        """Whether a hub holds the lease now."""
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


class Store(Protocol):
    # -- the log -----------------------------------------------------------------------------------------

    """The hub's durable store. Every write raises LeaseLost, DiskFull or OutcomeUnknown as its commit ends."""

    @property
    def one_copy(self) -> bool:
        """Whether commits are on one server alone now, since the standby that they should be on as well is gone."""

    def take_lease(self, name: str, *, address: str = "", ttl_s: float | None = None, anyway: bool = False) -> int:
        """Makes this process the active hub; raises the epoch and returns it. Every later write holds the lease.

        The holder is a random id of this store. Where several hubs may have the database open, the hold ends `ttl_s`
        seconds from now by the database's clock (None: never) unless it is renewed. A database that one hub has to
        itself is held for as long as it is open, and taken at once.

        Args:
            name: the hub's, only shown to people.
            address: where others reach this hub, for those that wait.
            anyway: take it from a holder whose time is not over, as an operator may say.

        Raises: LeaseHeld: another hub holds it.
        """

    def renew_lease(self, ttl_s: float) -> None:
        """Makes the hold end `ttl_s` seconds from now. A hold that ran out is taken up again unless another hub has
        taken the lease since.

        Raises: LeaseLost.
        """

    def check_lease(self) -> None:
        """Reads whether this process holds the lease; a write would notice as well.

        Raises: LeaseLost.
        """

    def read_head(self) -> Head:
        """Reads who holds the lease and where the log ends, from the database that takes writes. Needs no lease."""

    def wait_for_change(self, timeout_s: float) -> bool:
        """Blocks until another process has changed the log or the lease, at most `timeout_s`; returns whether it heard
        of a change.

        A hint that may be missed, or come without a change: read the head to know.
        """

    def incarnations(self) -> dict[int, str]:
        """The incarnation of every epoch that this log's lease was held in."""

    def snapshot(self) -> Snapshot:
        """Reads pointers and tenants as the log leaves them, at one rev."""

    def last_revs(self) -> dict[tuple[str, str | None], int]:
        """The rev of the newest event of every (tenant, route); route None: of those about a tenant as a whole."""

    def commit(self, drafts: Sequence[Draft], *, key: str, fleet: FleetChange = NO_CHANGE) -> Committed:
        """Appends all drafts as one transaction, or none; `fleet` is what they change of the nodes.

        A `key` that was used before returns its first commit. Each draft's `expected_generation` is compared with its
        pointer inside the transaction (None: not compared).

        Raises: Moved, LeaseLost, DiskFull, OutcomeUnknown: see each.
        """

    def adopt(
        self, drafts: Sequence[Draft], *, epoch_above: int, key: str, fleet: FleetChange = NO_CHANGE
    ) -> Committed:
        """Commits a recovery: raises the epoch above `epoch_above` and appends `drafts`, whose generations may jump
        ahead.
        """

    def lookup(self, key: str) -> Committed | None:
        """The commit under an idempotency key; None if nothing was committed under it."""

    def since(self, rev: int, limit: int = 1000) -> list[Event]:
        """Events after `rev`, oldest first, at most `limit`. Needs no lease: a hub that waits for it follows so."""

    def history(
        self, *, tenant: str | None = None, route: str | None = None, before_rev: int | None = None, limit: int = 100
    ) -> list[Event]:
        """Events that match all given conditions and are listed (`Event.is_listed`), newest first."""

    def event(self, event_id: str) -> Event | None:
        """The event with this id; None if there is none."""

    def txn(self, txn: str) -> list[Event]:
        """The events of a transaction, oldest first; empty for an unknown id."""

    def has_hash(self, rev: int, hash_: str) -> bool:
        """Whether the event at `rev` has this hash, and so this log holds everything that an agent with it has
        seen.
        """

    def rev_at(self, time_ms: int) -> int:
        """The last rev committed at or before a time; 0 if there is none."""

    def pointers_at(self, rev: int) -> list[PointerState]:
        """Every pointer as it was at a rev."""

    # -- the registry ------------------------------------------------------------------------------------

    def register(self, kind: Doc, digest: str, body: dict[str, Any], *, tenant: str | None, by: str) -> StoredDocument:
        """Adds a document to the registry. Registering a digest again returns the stored document, which never
        changes.
        """

    def register_adapter(
        self, manifest: dict[str, Any], digest: str, release: str, *, by: str, version: int | None = None
    ) -> StoredDocument:
        """Adds an AdapterVersion under the next version number of its (tenant, name), or under `version`; a known
        digest keeps its number.
        """

    def registry(self, kind: Doc, *, tenant: str | None = None) -> list[StoredDocument]:
        """Documents of a kind, in the order of registration; of one tenant if given."""

    # -- attestations, traffic, jobs, tokens -------------------------------------------------------------

    def attest(self, attestation: Attestation) -> Attestation:
        """Stores an attestation and returns it with its `seq` and `at_ms`."""

    def attest_all(self, attestations: Sequence[Attestation]) -> list[Attestation]:
        """Stores attestations in one transaction: a fleet that is proven at once costs one sync."""

    def attestations(self, **wanted: Unpack[AttestationFilter]) -> list[Attestation]:
        """Attestations that match all given conditions, oldest first."""

    def add_served(self, deltas: Iterable[Served], hour: int) -> None:
        """Adds to the seconds and counts of releases, and to those of their routes in an hour (hours since 1970), in
        one transaction. Hours are kept for HOURS_KEPT.
        """

    def served(self) -> list[Served]:
        """Lists all sums of `add_served`, one for each release on a pointer."""

    def hours(self, tenant: str, route: str, *, since: int) -> dict[int, Counts]:
        """The counts of a route by the hour, from the hour `since` on, oldest first; hours without any are left out."""

    def add_minutes(self, minute: int, counts: Mapping[PointerKey, Counts]) -> None:
        """Adds to the counts of routes in one minute (minutes since 1970), in one transaction. Minutes are kept for
        MINUTES_KEPT.
        """

    def minutes(self, tenant: str, route: str, *, since: int) -> dict[int, Counts]:
        """The counts of a route by the minute, from the minute `since` on, oldest first; empty ones are left out."""

    def put_job(self, job: Job) -> None:
        """Inserts a job, or replaces the one with its id."""

    def jobs(self, *, limit: int = 200) -> list[Job]:
        """Lists all unfinished jobs and the newest finished ones, newest first, `limit` in all unless more are
        unfinished.
        """

    def jobs_before(self, job_id: str | None, *, limit: int) -> list[Job]:
        """Jobs submitted before a job (None: the newest), newest first; empty for an unknown job."""

    def job(self, job_id: str) -> Job | None:
        """The job with this id; None if there is none."""

    def put_token(self, token: TokenRecord) -> None:
        """Inserts a token's record, or replaces the one with its id."""

    def tokens(self) -> list[TokenRecord]:
        """Lists all token records, revoked ones included, in the order of creation."""

    # -- the audit trail ---------------------------------------------------------------------------------

    def append_audit(self, drafts: Sequence[AuditDraft]) -> AuditHead:
        """Adds lines to the audit trail, with their numbers and the store's time, and returns its new head."""

    def audit_head(self) -> AuditHead:
        """The number of lines of the audit trail, and the root of the tree over them, as last written."""

    def audit_texts(self, after: int, limit: int) -> list[tuple[int, str]]:
        """(seq, text) of the lines after `after`, oldest first, at most `limit`. The text is what the tree hashes."""

    # -- notices -----------------------------------------------------------------------------------------

    def add_notices(self, notices: Sequence[tuple[Notice, Sequence[str]]]) -> list[tuple[Notice, Delivery]]:
        """Writes notices, each with the channels that are to be given it, and returns what there is to deliver. One
        whose id is known is left out. NOTICES_KEPT are kept, and those that are yet to be delivered.
        """

    def notices(self, limit: int) -> list[NoticeRow]:
        """The newest notices, newest first, and with them what is yet to be delivered."""

    def deliveries(self) -> list[tuple[Notice, Delivery]]:
        """Lists what is yet to be delivered or was given up, in the order in which it was written."""

    def record_delivery(self, delivery: Delivery, *, given: bool) -> None:
        """Writes a delivery's failed attempt, or removes one that was given."""

    # -- nodes -------------------------------------------------------------------------------------------

    def save_fleet(self, change: FleetChange) -> None:
        """Writes what has changed of the nodes, in one transaction."""

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Name -> what is kept of the node."""

    def withdrawals(self) -> list[Withdrawal]:
        """Lists all withdrawals that no node has acknowledged."""

    # -- its own state -----------------------------------------------------------------------------------

    def meta(self, name: str) -> str | None:
        """A named setting of the hub itself; None if it was never set."""

    def set_meta(self, name: str, value: str) -> None:
        """Stores a named setting of the hub itself."""

    def reopen(self) -> None:
        """Closes the store and opens it again, after OutcomeUnknown.

        Raises: OutcomeUnknown: the disk still fails.
        """

    def backup(self, path: str, between: Callable[[], None] = lambda: None) -> None:
        """Writes a consistent copy to a new file, while the store is in use.

        `between` is called again and again, where other calls may be made. What it raises ends the backup.
        """

    def close(self) -> None:
        """Gives up the lease, closes the store and frees its lock."""
