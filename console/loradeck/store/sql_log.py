"""The hub's store, on whichever database: the log, the pointers and tenants that it folds to, and the audit trail.

A commit folds its events by the rules (`rules.moves.fold`) and writes the changed pointers and tenants beside them in
one transaction; `log_audit.LogAudit` folds the whole log again and compares.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from loradeck.rules.clocks import stamp
from loradeck.rules.merkle import Frontier
from loradeck.rules.moves.chain import seal
from loradeck.rules.moves.fold import TENANT_KINDS, FoldedLog
from loradeck.rules.moves.lease import Renewal
from loradeck.schemas.audit import AuditDraft, AuditLine
from loradeck.schemas.ids import Name, canonical_json
from loradeck.schemas.log import GENESIS, MOVES, Draft, Event, EventKind, PointerState
from loradeck.schemas.pool import PoolConfig
from loradeck.schemas.position import AuditHead
from loradeck.schemas.tenant import TenantState
from loradeck.store.interface import (
    NO_CHANGE,
    Committed,
    FleetChange,
    Head,
    Lease,
    Moved,
    Snapshot,
    StoreError,
    Unreadable,
)
from loradeck.store.lease import check_lease, read_head, release_lease, renew_lease, take_lease
from loradeck.store.sql_database import Connection
from loradeck.store.sql_records import read_meta, write_fleet, write_meta
from loradeck.store.sql_tenant_data import SqlTenantData

FRONTIER = "audit_frontier"
"""The setting that holds the tree's frontier, written with each line."""


_POOLS = "pools"
_pools_adapter = TypeAdapter(dict[Name, PoolConfig])


class Store(SqlTenantData):
    """The hub's durable store, in whichever SQL database.

    Every write is one transaction, durable when the call returns, and raises LeaseLost, DiskFull or OutcomeUnknown as
    its commit ends. No code above this package knows which database is behind it; the contract suite in
    `tests/contract/store` runs against each.

    Safe to call from several threads; calls wait for each other.
    """

    _newest = (0, GENESIS)
    """Rev and hash of the newest event that this store has committed, or found when it took the lease."""

    @property
    def one_copy(self) -> bool:
        """Whether commits are on one server alone now, since the standby that they should be on as well is gone."""
        return self.database.one_copy

    # -- writing the log ---------------------------------------------------------------------------------

    def take_lease(
        self,
        name: str,
        *,
        address: str = "",
        ttl_s: float | None = None,
        anyway: bool = False,
        unless_renewed: Renewal | None = None,
        epoch_above: int = 0,
    ) -> int:
        """Makes this process the active hub; raises the epoch and returns it. Every later write holds the lease.

        The holder is a random id of this store. Where several hubs may have the database open, the hold ends `ttl_s`
        seconds from now by the database's clock (None: never) unless it is renewed. A database that one hub has to
        itself is held for as long as it is open, and taken at once.

        Args:
            name: the hub's, only shown to people.
            address: where others reach this hub, for those that wait.
            anyway: take it from a holder whose time is not over, as an operator may say.
            unless_renewed: a renewal that this hub has watched for the length of the lease by its own clock. If that is
                still the newest, the hold is over, whatever the database's clock says.
            epoch_above: the epoch of the hold is above this one.

        Raises: LeaseHeld: another hub holds it.
        """
        alone = not self.database.shared
        ttl_s = None if alone else ttl_s
        with self.database.transaction() as connection:
            lease = take_lease(
                connection,
                self._holder,
                name,
                address=address,
                ttl_s=ttl_s,
                anyway=anyway or alone,
                unless_renewed=unless_renewed,
                epoch_above=epoch_above,
            )
            head = read_head(connection)
        self._lease, self._newest = lease, (head.rev, head.hash)
        return lease.epoch

    def renew_lease(self, ttl_s: float) -> None:
        """Makes the hold end `ttl_s` seconds from now. A hold that ran out is taken up again unless another hub has
        taken the lease since.

        Raises: LeaseLost.
        """
        if not self.database.shared:
            self.check_lease()
            return
        with self.database.transaction() as connection:
            renew_lease(connection, self._lease, ttl_s)

    def check_lease(self) -> None:
        """Reads whether this process holds the lease; a write would notice as well. Raises: LeaseLost."""
        check_lease(self.read_head(), self._lease, self._holder)

    def read_head(self) -> Head:
        """Reads who holds the lease and where the log ends, from the database that takes writes. Needs no lease."""
        with self.database.reading() as connection:
            return read_head(connection)

    def wait_for_change(self, timeout_s: float) -> bool:
        """Blocks until another process has changed the log or the lease, at most `timeout_s`; returns whether it heard
        of a change.

        A hint that may be missed, or come without a change: read the head to know.
        """
        return self.database.wait_for_change(timeout_s)

    def commit(self, drafts: Sequence[Draft], *, key: str, fleet: FleetChange = NO_CHANGE) -> Committed:
        """Appends all drafts as one transaction, or none; `fleet` is what they change of the nodes.

        A `key` that was used before returns its first commit. Each draft's `expected_generation` is compared with its
        pointer inside the transaction (None: not compared).

        Raises: Moved, LeaseLost, DiskFull, OutcomeUnknown: see each.
        """
        with self._writing() as (connection, head):
            if used := _used(connection, key):
                return used
            write_fleet(connection, fleet)
            committed = self._append(connection, drafts, key, head, head.lease)
        self._follow(committed)
        return committed

    def adopt(self, drafts: Sequence[Draft], *, epoch_above: int, key: str) -> Committed:
        """Commits a recovery: raises the epoch above `epoch_above` and appends `drafts`, whose generations may jump."""
        with self._writing() as (connection, head):
            if used := _used(connection, key):
                return used
            held = head.lease
            raised = take_lease(
                connection,
                held.holder,
                held.name,
                address=held.address,
                ttl_s=self._lease.ttl_s if self._lease else None,
                epoch_above=epoch_above,
            )
            committed = self._append(connection, drafts, key, head, raised, jumps=True)
        self._lease = raised
        self._follow(committed)
        return committed

    def _follow(self, committed: Committed) -> None:
        if committed.events:
            self._newest = (committed.rev, committed.events[-1].hash)

    def _append(
        self,
        connection: Connection,
        drafts: Sequence[Draft],
        key: str,
        head: Head,
        lease: Lease,
        *,
        jumps: bool = False,
    ) -> Committed:
        epoch, rev = lease.epoch, head.rev
        folded = FoldedLog.of(epoch=epoch, rev=rev, hash=head.hash, pointers=(), tenants=(), pools={})
        txn = secrets.token_hex(16)
        at_ms = stamp(head.now_ms, head.at_ms)
        events: list[Event] = []
        for draft in drafts:
            _load(connection, folded, draft)
            checked = _checked(connection, folded, draft, jumps=jumps)
            event = seal(
                checked,
                rev=folded.rev + 1,
                id=secrets.token_hex(16),
                txn=txn,
                epoch=epoch,
                at_ms=at_ms,
                prev_hash=folded.hash,
            )
            folded.apply(event)
            events.append(event)
        rows = [(event.rev, event.model_dump_json()) for event in events]
        connection.executemany("INSERT INTO events (rev, body) VALUES (?, ?)", rows)
        _save(connection, folded, events)
        if events:
            connection.execute("UPDATE head SET rev = ?, hash = ?, at_ms = ?", (folded.rev, folded.hash, at_ms))
        connection.execute("INSERT INTO keys VALUES (?, ?, ?, ?)", (key, txn, rev + 1, folded.rev))
        return Committed(events=events, rev=folded.rev)

    def incarnations(self) -> dict[int, str]:
        """The incarnation of every epoch that this log's lease was held in."""
        return dict(self._read("SELECT epoch, incarnation FROM incarnations"))

    # -- reading the log ---------------------------------------------------------------------------------

    def last_revs(self) -> dict[tuple[str, str | None], int]:
        """The rev of the newest event of every (tenant, route); route None: of those about a tenant as a whole."""
        rows = self._read("SELECT tenant, route, max(rev) FROM events GROUP BY tenant, route")
        return {(tenant, route): rev for tenant, route, rev in rows}

    def snapshot(self) -> Snapshot:
        """Reads pointers and tenants as the log leaves them, at one rev."""
        with self.database.reading() as connection:
            head = read_head(connection)
            pointers = connection.execute("SELECT body FROM pointers ORDER BY tenant, route").fetchall()
            tenants = connection.execute("SELECT body FROM tenants ORDER BY name").fetchall()
            pools = _pools(connection)
        return Snapshot(
            log=head.log,
            epoch=head.lease.epoch,
            incarnation=head.incarnation,
            rev=head.rev,
            hash=head.hash,
            pointers=[PointerState.model_validate_json(body) for (body,) in pointers],
            tenants=[TenantState.model_validate_json(body) for (body,) in tenants],
            pools=pools,
        )

    def lookup(self, key: str) -> Committed | None:
        """The commit under an idempotency key; None if nothing was committed under it."""
        with self.database.reading() as connection:
            return _used(connection, key)

    def since(self, rev: int, limit: int = 1000) -> list[Event]:
        """Events after `rev`, oldest first, at most `limit`. Needs no lease: a hub that waits for it follows so.

        Raises: Unreadable: one of them is damaged.
        """
        return self._events("WHERE rev > ? ORDER BY rev LIMIT ?", (rev, limit))

    def history(
        self, *, tenant: str | None = None, route: str | None = None, before_rev: int | None = None, limit: int = 100
    ) -> list[Event]:
        """Events that match all given conditions and are listed (`Event.is_listed`), newest first.

        Raises: Unreadable: one of them is damaged.
        """
        asked = {"tenant = ?": tenant, "route = ?": route, "rev < ?": before_rev}
        given = {condition: value for condition, value in asked.items() if value is not None}
        conditions = [*given, f"body -> 'kind' <> '\"{EventKind.AUDIT}\"'"]
        return self._events(f"WHERE {' AND '.join(conditions)} ORDER BY rev DESC LIMIT ?", (*given.values(), limit))

    def event(self, event_id: str) -> Event | None:
        """The event with this id; None if there is none."""
        with self.database.reading() as connection:
            return _event(connection, event_id)

    def txn(self, txn: str) -> list[Event]:
        """The events of a transaction, oldest first; empty for an unknown id."""
        with self.database.reading() as connection:
            row = connection.execute("SELECT first_rev, last_rev FROM keys WHERE txn = ?", (txn,)).fetchone()
            return _between(connection, *row) if row else []

    def has_hash(self, rev: int, hash_: str) -> bool:
        """Tells whether the event at `rev` has this hash: then this log holds all that an agent with it has seen."""
        with self.database.reading() as connection:
            return has_hash(connection, rev, hash_)

    def rev_at(self, time_ms: int) -> int:
        """The highest rev among events at or before a time, even if the clock was set back; 0 if there is none."""
        # Not the newest time but the newest rev: after the wall clock was set back, they differ. The `+` keeps
        # SQLite from walking the log itself backwards, which takes seconds on a long one.
        ((rev,),) = self._read("SELECT max(+rev) FROM events WHERE at_ms <= ?", (time_ms,))
        return int(rev or 0)

    def pointers_at(self, rev: int) -> list[PointerState]:
        """Every pointer as it was at a rev; those created later are left out."""
        rows = self._read(
            "SELECT (SELECT body -> 'pointer' FROM events WHERE rev = ("
            "  SELECT max(rev) FROM events WHERE tenant = p.tenant AND route = p.route"
            "  AND rev <= ? AND generation IS NOT NULL)) AS pointer"
            " FROM pointers p ORDER BY tenant, route",
            (rev,),
        )
        return [PointerState.model_validate_json(pointer) for (pointer,) in rows if pointer is not None]

    def _events(self, condition: str, args: Sequence[Any]) -> list[Event]:
        with self.database.reading() as connection:
            return _parsed(connection.execute(f"SELECT rev, body FROM events {condition}", args))

    # -- the audit trail: lines that are only ever added, and the tree over them ---------------------------

    def append_audit(self, drafts: Sequence[AuditDraft]) -> AuditHead:
        """Adds lines to the audit trail, with their numbers and the store's time, and returns its new head."""
        with self._writing() as (connection, head):
            before = _frontier(connection)
            numbered = [
                (seq, canonical_json(AuditLine(**draft.model_dump(), seq=seq, at_ms=head.now_ms)))
                for seq, draft in enumerate(drafts, before.size + 1)
            ]
            rows = [(seq, line.decode()) for seq, line in numbered]
            connection.executemany("INSERT INTO audit (seq, body) VALUES (?, ?)", rows)
            after = before.extended(line for _, line in numbered)
            write_meta(connection, FRONTIER, after.as_text())
        return after.head

    def audit_head(self) -> AuditHead:
        """The number of lines of the audit trail, and the root of the tree over them, as last written."""
        with self.database.reading() as connection:
            return _frontier(connection).head

    def audit_texts(self, after: int, limit: int) -> list[tuple[int, str]]:
        """(seq, text) of the lines after `after`, oldest first, at most `limit`. The text is what the tree hashes."""
        rows = self._read("SELECT seq, body FROM audit WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        return [(int(seq), str(body)) for seq, body in rows]

    # -- the database ------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """Closes the store and opens it again, after OutcomeUnknown. Raises: OutcomeUnknown: the disk still fails."""
        self.database.reopen()  # and the lease is read again, since an `adopt` that failed may have raised its epoch
        now = self.read_head().lease
        if self._lease is not None and now.holder == self._holder:
            self._lease = replace(self._lease, epoch=now.epoch)

    def backup(self, path: str, between: Callable[[], None] = lambda: None) -> None:
        """Writes a consistent copy to a new file, while the store is in use.

        `between` is called again and again, where other calls may be made. What it raises ends the backup.
        """
        self.database.backup(Path(path), between)

    def close(self) -> None:
        """Gives up the lease where others may wait for it, closes the store and frees its lock."""
        if self._lease is not None and self.database.shared:
            with suppress(StoreError), self.database.transaction() as connection:
                release_lease(connection, self._lease)
        self.database.close()


def has_hash(connection: Connection, rev: int, hash_: str) -> bool:
    """Tells whether the event at `rev` has this hash; rev 0 has GENESIS."""
    if rev == 0:
        return hash_ == GENESIS
    row = connection.execute("SELECT body -> 'hash' FROM events WHERE rev = ?", (rev,)).fetchone()
    return row is not None and row[0] == f'"{hash_}"'


def _load(connection: Connection, folded: FoldedLog, draft: Draft) -> None:
    """Loads what a draft may change, its tenant or its pointer, unless an earlier draft of its transaction has."""
    if draft.kind is EventKind.POOL and not folded.pools:
        folded.pools = _pools(connection)
    if draft.kind in TENANT_KINDS and draft.tenant not in folded.tenants:
        row = connection.execute("SELECT body FROM tenants WHERE name = ?", (draft.tenant,)).fetchone()
        if row:
            folded.tenants[draft.tenant] = TenantState.model_validate_json(row[0])
    if draft.route is not None and (draft.tenant, draft.route) not in folded.pointers:
        key = (draft.tenant, draft.route)
        row = connection.execute("SELECT body FROM pointers WHERE tenant = ? AND route = ?", key).fetchone()
        if row:
            folded.pointers[key] = PointerState.model_validate_json(row[0])


def _pools(connection: Connection) -> dict[Name, PoolConfig]:
    return _pools_adapter.validate_json(read_meta(connection, _POOLS) or "{}")


def _frontier(connection: Connection) -> Frontier:
    text = read_meta(connection, FRONTIER)
    return Frontier.of_text(text) if text else Frontier()


def _save(connection: Connection, folded: FoldedLog, events: Sequence[Event]) -> None:
    if any(event.kind is EventKind.POOL for event in events):
        write_meta(connection, _POOLS, _pools_adapter.dump_json(folded.pools).decode())
    connection.executemany(
        "INSERT INTO pointers VALUES (?, ?, ?) ON CONFLICT (tenant, route) DO UPDATE SET body = excluded.body",
        [(tenant, route, pointer.model_dump_json()) for (tenant, route), pointer in folded.pointers.items()],
    )
    connection.executemany(
        "INSERT INTO tenants VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET body = excluded.body",
        [(name, tenant.model_dump_json()) for name, tenant in folded.tenants.items()],
    )


def _checked(connection: Connection, folded: FoldedLog, draft: Draft, *, jumps: bool) -> Draft:
    """Checks that a draft's pointer is at the generation it expects, and returns the draft. `jumps`: moves may skip
    some.

    Raises:
        Moved: it is at another generation, or the draft's own generation does not follow.
        StoreError: the draft holds another pointer's state.
    """
    if draft.route is None:
        return draft
    known = folded.pointers.get((draft.tenant, draft.route))
    now = known or PointerState(tenant=draft.tenant, route=draft.route)
    after, moves = draft.pointer, draft.kind in MOVES
    if after and after.key != now.key:
        raise StoreError(f"a draft for {draft.tenant}/{draft.route} holds the state of {after.tenant}/{after.route}")
    follows = after is None or (
        after.generation > now.generation if jumps and moves else after.generation == now.generation + moves
    )
    if not follows or draft.expected_generation not in (None, now.generation):
        raise Moved(_event(connection, now.last_move) if now.last_move else None, known)
    if after is None or moves:
        return draft
    kept = after.model_copy(update={"last_move": now.last_move, "moved_ms": now.moved_ms})
    return draft.model_copy(update={"pointer": kept})


def _used(connection: Connection, key: str) -> Committed | None:
    row = connection.execute("SELECT first_rev, last_rev FROM keys WHERE key = ?", (key,)).fetchone()
    return Committed(events=_between(connection, *row), rev=row[1], replayed=True) if row else None


def _event(connection: Connection, event_id: str) -> Event | None:
    events = _parsed(connection.execute("SELECT rev, body FROM events WHERE id = ?", (event_id,)))
    return events[0] if events else None


def _between(connection: Connection, first_rev: int, last_rev: int) -> list[Event]:
    return _parsed(
        connection.execute("SELECT rev, body FROM events WHERE rev BETWEEN ? AND ? ORDER BY rev", (first_rev, last_rev))
    )


def _parsed(rows: Iterable[tuple[int, str]]) -> list[Event]:
    events = []
    for rev, body in rows:
        try:
            event = Event.model_validate_json(body)
        except ValidationError as error:
            raise Unreadable(rev, f"the event at rev {rev} cannot be read: {error.errors()[0]['msg']}") from error
        if event.rev != rev:
            raise Unreadable(rev, f"the event at rev {rev} says that it is rev {event.rev}")
        events.append(event)
    return events
