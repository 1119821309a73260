"""The store on SQLite: the log, and the pointers and tenants that it folds to.

One hub, one file, one connection. A commit folds its events by the rules (`rules.moves.fold`) and writes the changed
pointers and tenants beside them in one transaction; `log_audit.verify_log` folds the whole log again and compares.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from loradeck.rules.moves.chain import seal
from loradeck.rules.moves.fold import TENANT_KINDS, FoldedLog
from loradeck.schemas.log import GENESIS, MOVES, Draft, Event, EventKind, PointerState
from loradeck.schemas.tenant import TenantState
from loradeck.store.database import SQLITE_VERSION, Database
from loradeck.store.interface import NO_CHANGE, Committed, FleetChange, Moved, Snapshot, StoreError, Unreadable
from loradeck.store.lease import Head, Lease, check_lease, extend_log, read_head, take_lease
from loradeck.store.sqlite_audit import SqliteAudit
from loradeck.store.sqlite_records import wall_ms, write_fleet

if TYPE_CHECKING:
    from sqlite3 import Connection


class SqliteStore(SqliteAudit):
    """The `Store` in one SQLite file. Safe to call from several threads; calls wait for each other.

    Args:
        path: the database; created with its folder (0700) if missing.
        clock_ms: wall clock, milliseconds since 1970 UTC.

    Raises:
        Unusable: see `Database`. Nothing was changed.
    """

    version = f"SQLite {SQLITE_VERSION}"

    def __init__(self, path: str | Path, *, clock_ms: Callable[[], int] = wall_ms) -> None:
        super().__init__(Database(Path(path)), clock_ms)

    # -- writing the log ---------------------------------------------------------------------------------

    def take_lease(self, name: str) -> int:
        """Raises the epoch and makes this process the holder, in one row; see `Store.take_lease`."""
        with self._database.transaction() as connection:
            lease = take_lease(connection, self._holder, name)
        self._lease = lease
        return lease.epoch

    def check_lease(self) -> None:
        """Reads the holder in the row of the head; see `Store.check_lease`."""
        with self._database.reading() as connection:
            check_lease(read_head(connection), self._holder)

    def commit(self, drafts: Sequence[Draft], *, key: str, fleet: FleetChange = NO_CHANGE) -> Committed:
        """Appends the drafts and updates their pointers and tenants in one transaction; see `Store.commit`."""
        with self._writing() as (connection, head):
            if used := _used(connection, key):
                return used
            write_fleet(connection, fleet)
            return self._append(connection, drafts, key, head, head.lease)

    def adopt(
        self, drafts: Sequence[Draft], *, epoch_above: int, key: str, fleet: FleetChange = NO_CHANGE
    ) -> Committed:
        """Raises the lease's epoch and appends the drafts in one transaction; see `Store.adopt`."""
        with self._writing() as (connection, head):
            if used := _used(connection, key):
                return used
            write_fleet(connection, fleet)
            raised = take_lease(connection, head.lease.holder, head.lease.name, epoch_above=epoch_above)
            committed = self._append(connection, drafts, key, head, raised, jumps=True)
        self._lease = raised
        return committed

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
        folded = FoldedLog.of(epoch=epoch, rev=rev, hash=head.hash, pointers=(), tenants=())
        txn = secrets.token_hex(16)
        at_ms = self._clock_ms()
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
        _save(connection, folded)
        extend_log(connection, lease, rev=folded.rev, hash_=folded.hash)
        connection.execute("INSERT INTO keys VALUES (?, ?, ?, ?)", (key, txn, rev + 1, folded.rev))
        return Committed(events=events, rev=folded.rev)

    def incarnations(self) -> dict[int, str]:
        """Epoch -> incarnation; see `Store.incarnations`."""
        with self._database.reading() as connection:
            return dict(connection.execute("SELECT epoch, incarnation FROM incarnations").fetchall())

    # -- reading the log ---------------------------------------------------------------------------------

    def last_revs(self) -> dict[tuple[str, str | None], int]:
        """The rev of the newest event of every (tenant, route); see `Store.last_revs`."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT tenant, route, max(rev) FROM events GROUP BY tenant, route").fetchall()
        return {(tenant, route): rev for tenant, route, rev in rows}

    def snapshot(self) -> Snapshot:
        """Reads the stored pointers and tenants at one rev; see `Store.snapshot`."""
        with self._database.reading() as connection:
            head = read_head(connection)
            pointers = connection.execute("SELECT body FROM pointers ORDER BY tenant, route").fetchall()
            tenants = connection.execute("SELECT body FROM tenants ORDER BY name").fetchall()
        return Snapshot(
            log=head.log,
            epoch=head.lease.epoch,
            incarnation=head.incarnation,
            rev=head.rev,
            hash=head.hash,
            pointers=[PointerState.model_validate_json(body) for (body,) in pointers],
            tenants=[TenantState.model_validate_json(body) for (body,) in tenants],
        )

    def lookup(self, key: str) -> Committed | None:
        """Finds the commit under an idempotency key; see `Store.lookup`."""
        with self._database.reading() as connection:
            return _used(connection, key)

    def since(self, rev: int, limit: int = 1000) -> list[Event]:
        """Events after `rev`, oldest first; raises Unreadable for a damaged one."""
        return self._events("WHERE rev > ? ORDER BY rev LIMIT ?", (rev, limit))

    def history(
        self, *, tenant: str | None = None, route: str | None = None, before_rev: int | None = None, limit: int = 100
    ) -> list[Event]:
        """Events that match all conditions and are listed, newest first; raises Unreadable for a damaged one."""
        asked = {"tenant = ?": tenant, "route = ?": route, "rev < ?": before_rev}
        given = {condition: value for condition, value in asked.items() if value is not None}
        conditions = [*given, f"body ->> '$.kind' <> '{EventKind.AUDIT}'"]
        return self._events(f"WHERE {' AND '.join(conditions)} ORDER BY rev DESC LIMIT ?", (*given.values(), limit))

    def event(self, event_id: str) -> Event | None:
        """The event with this id; None if there is none."""
        with self._database.reading() as connection:
            return _event(connection, event_id)

    def txn(self, txn: str) -> list[Event]:
        """The events of a transaction, oldest first; empty for an unknown id."""
        with self._database.reading() as connection:
            row = connection.execute("SELECT first_rev, last_rev FROM keys WHERE txn = ?", (txn,)).fetchone()
            return _between(connection, *row) if row else []

    def has_hash(self, rev: int, hash_: str) -> bool:
        """Whether the event at `rev` has this hash; rev 0 has GENESIS."""
        if rev == 0:
            return hash_ == GENESIS
        with self._database.reading() as connection:
            row = connection.execute("SELECT body ->> '$.hash' FROM events WHERE rev = ?", (rev,)).fetchone()
        return row is not None and row[0] == hash_

    def rev_at(self, time_ms: int) -> int:
        """The highest rev among events at or before a time, even if the clock was set back; 0 if there is none."""
        # Not the newest time but the newest rev: after the wall clock was set back, they differ. The `+` keeps
        # SQLite from walking the log itself backwards, which takes seconds on a long one.
        with self._database.reading() as connection:
            (rev,) = connection.execute("SELECT max(+rev) FROM events WHERE at_ms <= ?", (time_ms,)).fetchone()
        return int(rev or 0)

    def pointers_at(self, rev: int) -> list[PointerState]:
        """Every pointer as it was at a rev; those created later are left out."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT (SELECT body -> '$.pointer' FROM events WHERE rev = ("
                "  SELECT max(rev) FROM events WHERE tenant = p.tenant AND route = p.route"
                "  AND rev <= ? AND generation IS NOT NULL)) AS pointer"
                " FROM pointers p ORDER BY tenant, route",
                (rev,),
            ).fetchall()
        return [PointerState.model_validate_json(pointer) for (pointer,) in rows if pointer is not None]

    def _events(self, condition: str, args: Sequence[Any]) -> list[Event]:
        with self._database.reading() as connection:
            return _parsed(connection.execute(f"SELECT rev, body FROM events {condition}", args))

    # -- the file ----------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """Reopens the file and reads the lease again, since a failed `adopt` may have raised its epoch."""
        self._database.reopen()
        # The failed commit may have been an `adopt`, which raises the epoch of the lease this store still holds.
        with self._database.reading() as connection:
            now = read_head(connection).lease
        if self._lease is not None and now.holder == self._holder:
            self._lease = now

    def backup(self, path: str) -> None:
        """Writes a consistent copy to a new file; see `Database.backup`."""
        self._database.backup(Path(path))

    def close(self) -> None:
        """Closes the file and frees its lock."""
        self._database.close()


def _load(connection: Connection, folded: FoldedLog, draft: Draft) -> None:
    """Loads what a draft may change, its tenant or its pointer, unless an earlier draft of its transaction has."""
    if draft.kind in TENANT_KINDS and draft.tenant not in folded.tenants:
        row = connection.execute("SELECT body FROM tenants WHERE name = ?", (draft.tenant,)).fetchone()
        if row:
            folded.tenants[draft.tenant] = TenantState.model_validate_json(row[0])
    if draft.route is not None and (draft.tenant, draft.route) not in folded.pointers:
        key = (draft.tenant, draft.route)
        row = connection.execute("SELECT body FROM pointers WHERE tenant = ? AND route = ?", key).fetchone()
        if row:
            folded.pointers[key] = PointerState.model_validate_json(row[0])


def _save(connection: Connection, folded: FoldedLog) -> None:
    connection.executemany(
        "INSERT INTO pointers VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
        [(tenant, route, pointer.model_dump_json()) for (tenant, route), pointer in folded.pointers.items()],
    )
    connection.executemany(
        "INSERT INTO tenants VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
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
