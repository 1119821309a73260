"""What the hub asks of its durable store. Nothing above this package knows which database it is.

A store is used from one thread. Every write is one transaction, durable when the call returns. The contract
suite in `tests/contract/store` runs against every backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import Draft, Event, PointerState
from loradeck.schemas.tenant import TenantState, TokenRecord


class StoreError(Exception):
    """Something is wrong with the store or what was asked of it. `code` is stable and goes on the wire."""

    code = "store_error"


class Moved(StoreError):
    """A pointer was no longer at the generation that was expected. Nothing was committed."""

    code = "moved"

    def __init__(self, winner: Event | None, pointer: PointerState | None) -> None:
        super().__init__("the pointer has moved since")
        self.winner = winner
        self.pointer = pointer


class LeaseLost(StoreError):
    """Another hub has taken the lease. Nothing was committed."""

    code = "not_active"


class OutcomeUnknown(StoreError):
    """The commit may or may not be durable: ask `lookup(key)` after `reopen()`. Never say 'not applied'."""

    code = "outcome_unknown"


class DiskFull(StoreError):
    """There is no room; the transaction was rolled back and the state is as before."""

    code = "disk_full"


class Unusable(StoreError):
    """The database cannot be used: broken SQLite version, newer schema, second hub, corrupt file."""

    code = "store_unusable"


class Unreadable(Unusable):
    """The event at `rev` is damaged: it does not parse, or stands in the wrong place."""

    def __init__(self, rev: int, why: str) -> None:
        super().__init__(why)
        self.rev = rev


class Doc(StrEnum):
    """Kinds of immutable registry documents, keyed by digest."""

    BASE = "base"
    ADAPTER = "adapter"  # AdapterVersion
    RELEASE = "release"
    DATASET = "dataset"
    SUITE = "suite"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The log folded up to `rev`."""

    epoch: int
    rev: int
    hash: str
    pointers: Sequence[PointerState]
    tenants: Sequence[TenantState]


@dataclass(frozen=True, kw_only=True)
class Committed:
    """`replayed`: the key had been used, and these are the events it stands for."""

    events: Sequence[Event]
    rev: int
    replayed: bool = False


@dataclass(frozen=True, kw_only=True)
class Served:
    """How much one release has answered on one pointer, over all the times it was current. All but `kind` add up."""

    tenant: str
    route: str
    release: str
    seconds: float = 0.0
    counts: Counts = NO_COUNTS

    def __add__(self, other: Served) -> Served:
        """The sum of two parts. Both are of the same release on the same pointer."""
        return replace(self, seconds=self.seconds + other.seconds, counts=self.counts + other.counts)


@dataclass(frozen=True, kw_only=True)
class Registered:
    digest: str
    kind: Doc
    body: dict[str, Any]
    tenant: str | None
    created_ms: int
    created_by: str
    serial: int = field(default=0)
    """1, 2, ... in the order of registration within its kind."""


class Store(Protocol):
    # -- the log -----------------------------------------------------------------------------------------

    def take_lease(self, holder: str) -> int:
        """Become the active hub; raises and returns the epoch. Every later write checks that it still holds."""
        ...

    def snapshot(self) -> Snapshot: ...

    def commit(self, drafts: Sequence[Draft], *, key: str) -> Committed:
        """Append all drafts as one txn, or none.

        A `key` that was used before returns what it committed then. Each draft's `expected_generation` is
        compared with its pointer inside the transaction (None: not compared).

        Raises: Moved, LeaseLost, DiskFull, OutcomeUnknown.
        """
        ...

    def adopt(self, drafts: Sequence[Draft], *, epoch_above: int, key: str) -> Committed:
        """`recover`: raise the epoch above `epoch_above` and append `drafts`, whose generations may jump ahead."""
        ...

    def lookup(self, key: str) -> Committed | None: ...

    def since(self, rev: int, limit: int = 1000) -> list[Event]:
        """Events after `rev`, oldest first."""
        ...

    def history(
        self, *, tenant: str | None = None, route: str | None = None, before_rev: int | None = None, limit: int = 100
    ) -> list[Event]:
        """Newest first."""
        ...

    def event(self, event_id: str) -> Event | None: ...

    def txn(self, txn: str) -> list[Event]: ...

    def has_hash(self, rev: int, hash_: str) -> bool:
        """Whether the event at `rev` has this hash: how a hub knows that its log holds what an agent has seen."""
        ...

    def rev_at(self, time_ms: int) -> int:
        """The last rev committed at or before a time; 0 if none."""
        ...

    def pointers_at(self, rev: int) -> list[PointerState]:
        """Every pointer as it was at a rev."""
        ...

    # -- the registry ------------------------------------------------------------------------------------

    def register(self, kind: Doc, digest: str, body: dict[str, Any], *, tenant: str | None, by: str) -> Registered:
        """Add a document. Registering the same digest again returns the first; it never changes."""
        ...

    def register_adapter(self, manifest: dict[str, Any], digest: str, release: str, *, by: str) -> Registered:
        """Add an AdapterVersion under the next version number of its (tenant, name); same digest, same version."""
        ...

    def registered(self, kind: Doc, digest: str) -> Registered | None: ...

    def registry(self, kind: Doc, *, tenant: str | None = None) -> list[Registered]: ...

    # -- attestations, traffic, jobs, tokens -------------------------------------------------------------

    def attest(self, attestation: Attestation) -> Attestation: ...

    def attest_all(self, attestations: Sequence[Attestation]) -> list[Attestation]:
        """All of them in one transaction: a fleet that is proven at once costs one sync."""
        ...

    def attestations(
        self,
        *,
        kind: AttestationKind | None = None,
        subject: str | None = None,
        tenant: str | None = None,
        route: str | None = None,
        after_seq: int = 0,
    ) -> list[Attestation]:
        """Oldest first."""
        ...

    def add_served(self, deltas: Iterable[Served]) -> None: ...

    def served(self) -> list[Served]: ...

    def put_job(self, job: Job) -> None:
        """Insert or replace by id."""
        ...

    def jobs(self, *, limit: int = 200) -> list[Job]:
        """Unfinished ones and the newest finished ones, newest first."""
        ...

    def jobs_before(self, job_id: str | None, *, limit: int) -> list[Job]:
        """The newest ones, or those submitted before a job; newest first. None of an unknown one."""
        ...

    def job(self, job_id: str) -> Job | None: ...

    def put_token(self, token: TokenRecord) -> None: ...

    def tokens(self) -> list[TokenRecord]: ...

    # -- its own state -----------------------------------------------------------------------------------

    def meta(self, name: str) -> str | None: ...

    def set_meta(self, name: str, value: str) -> None: ...

    def reopen(self) -> None:
        """Close and open again, after OutcomeUnknown."""
        ...

    def backup(self, path: str) -> None:
        """A consistent copy, while in use."""
        ...

    def close(self) -> None: ...
