"""Records of the store in SQL beside the log: registry, attestations, traffic, jobs, tokens, notices, settings."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields, replace
from typing import Any, Unpack

from loradeck.schemas.attestation import Attestation, AttestationFilter, AttestationKind, Look
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import OVER, Job
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion
from loradeck.schemas.notice import Delivery, Notice, NoticeRow
from loradeck.schemas.tenant import TokenRecord
from loradeck.store.interface import (
    HOURS_KEPT,
    MINUTES_KEPT,
    NOTICES_KEPT,
    Doc,
    FleetChange,
    Head,
    Lease,
    Served,
    StoredDocument,
    StoreError,
    Withdrawal,
)
from loradeck.store.lease import hold_lease, new_holder
from loradeck.store.minutes import MINUTES, packed, unpacked
from loradeck.store.sql_database import Connection, SqlDatabase, named


class SqlRecords:
    """The part of the store in SQL that is not the log. Every write holds the lease in its own transaction."""

    def __init__(self, database: SqlDatabase) -> None:
        self.database = database
        self._holder = new_holder()
        self._lease: Lease | None = None
        """The lease that this store holds; None before `take_lease`."""

    @contextmanager
    def _writing(self) -> Iterator[tuple[Connection, Head]]:
        with self.database.transaction() as connection:
            yield connection, hold_lease(connection, self._lease)

    def _write(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs a statement for each row of arguments, in one transaction."""
        with self._writing() as (connection, _):
            connection.executemany(statement, rows)

    def _read(self, query: str, args: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query."""
        with self.database.reading() as connection:
            rows: list[Any] = connection.execute(query, args).fetchall()
        return rows

    def _read_named(self, query: str, args: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a query, each as column -> value."""
        with self.database.reading() as connection:
            return named(connection.execute(query, args))

    # -- the registry ------------------------------------------------------------------------------------

    def register(self, kind: Doc, digest: str, body: dict[str, Any], *, tenant: str | None, by: str) -> StoredDocument:
        """Adds a document to the registry. Registering a digest again returns the stored document, which never
        changes.
        """
        new = StoredDocument(digest=digest, kind=kind, body=body, tenant=tenant, created_ms=0, created_by=by)
        with self._writing() as (connection, head):
            return _registered(connection, kind, digest) or _add(connection, replace(new, created_ms=head.now_ms))

    def register_adapter(
        self, manifest: dict[str, Any], digest: str, release: str, *, by: str, version: int | None = None
    ) -> StoredDocument:
        """Adds an AdapterVersion under the next version number of its (tenant, name), or under `version`; a known
        digest keeps its number.

        Raises: StoreError: `digest` is not the manifest's.
        """
        parsed = AdapterManifest.model_validate(manifest)
        if parsed.digest != digest:
            raise StoreError(f"the manifest's digest is {parsed.digest}, not {digest}; nothing was registered")
        with self._writing() as (connection, head):
            if known := _registered(connection, Doc.ADAPTER, digest):
                return known
            (last,) = connection.execute(
                "SELECT max(version) FROM documents WHERE tenant = ? AND name = ? AND version IS NOT NULL",
                (parsed.tenant, parsed.name),
            ).fetchone()
            added = AdapterVersion(
                manifest=parsed,
                digest=digest,
                version=version or (last or 0) + 1,
                release=release,
                created_ms=head.now_ms,
                created_by=by,
            )
            new = StoredDocument(
                digest=digest,
                kind=Doc.ADAPTER,
                body=added.model_dump(mode="json"),
                tenant=parsed.tenant,
                created_ms=head.now_ms,
                created_by=by,
            )
            return _add(connection, new, name=parsed.name, version=added.version)

    def registry(self, kind: Doc, *, tenant: str | None = None) -> list[StoredDocument]:
        """Documents of a kind, in the order of registration; of one tenant if given."""
        where, args = _conditions(kind=kind.value, tenant=tenant)
        return [_document(row) for row in self._read_named(f"SELECT * FROM documents{where} ORDER BY serial", args)]

    # -- attestations ------------------------------------------------------------------------------------

    def attest(self, attestation: Attestation) -> Attestation:
        """Stores an attestation and returns it with its `seq` and `at_ms`."""
        return self.attest_all([attestation])[0]

    def attest_all(self, attestations: Sequence[Attestation]) -> list[Attestation]:
        """Stores attestations in one transaction: a fleet that is proven at once costs one sync. Those without a time
        get the clock's.
        """
        written = []
        with self._writing() as (connection, head):
            for attestation in attestations:
                at_ms = attestation.at_ms or head.now_ms
                row = attestation.model_dump(mode="json", exclude={"seq"}) | {"at_ms": at_ms}
                row["body"] = _json(row["body"])
                columns = ", ".join(f'"{column}"' for column in row)
                insert = f"INSERT INTO attestations ({columns}) VALUES ({_marks(row)}) RETURNING seq"
                ((seq,),) = connection.execute(insert, tuple(row.values())).fetchall()
                written.append(attestation.model_copy(update={"seq": seq, "at_ms": at_ms}))
        return written

    def attestations(self, **wanted: Unpack[AttestationFilter]) -> list[Attestation]:
        """Attestations that match all given conditions, oldest first."""
        where, args = _conditions(**wanted)
        rows = self._read_named(f"SELECT * FROM attestations{where} ORDER BY seq", args)
        return [Attestation.model_validate(row | {"body": json.loads(row["body"])}) for row in rows]

    def evaluated_on(self, tenant: str, suite: str) -> list[Look]:
        """A tenant's evaluations on a suite, oldest first."""
        query = f"SELECT subject, seq, at_ms FROM attestations{{}} AND body -> 'suite' = '\"{suite}\"' ORDER BY seq"
        where, args = _conditions(kind=AttestationKind.EVALUATION, tenant=tenant)
        return [Look(*row) for row in self._read(query.format(where), args)]

    # -- traffic, jobs, tokens ---------------------------------------------------------------------------

    def add_served(self, deltas: Iterable[Served], hour: int) -> None:
        """Adds to the sums of releases, and of their routes in an hour (since 1970), in one transaction."""
        sums = [_sums(delta) for delta in deltas]
        by_hour = [(tenant, route, hour, *counts) for tenant, route, _, _, *counts in sums if any(counts)]
        with self._writing() as (connection, _):
            connection.executemany(_adding("served", "release", ("seconds", *_COUNTS)), sums)
            connection.executemany(_adding("hours", "hour", _COUNTS), by_hour)

    def expire_hours(self, keys: Iterable[PointerKey], hour: int) -> None:
        """Removes the hours of these routes that are HOURS_KEPT old or older in the hour `hour`."""
        sought = "FROM hours WHERE tenant = ? AND route = ? AND hour <= ?"
        with self.database.reading() as connection:
            asked = [(*key, hour - HOURS_KEPT) for key in keys]
            over = [one for one in asked if connection.execute(f"SELECT 1 {sought} LIMIT 1", one).fetchone()]
        if over:  # mostly there are none, and then nothing is written
            self._write(f"DELETE {sought}", over)

    def served(self) -> list[Served]:
        """Lists all sums of `add_served`, one for each release on a pointer, sorted by tenant, route and release."""
        return [_served(row) for row in self._read_named("SELECT * FROM served ORDER BY tenant, route, release")]

    def hours(self, tenant: str, route: str, *, since: int) -> dict[int, Counts]:
        """The counts of a route by the hour, from the hour `since` on, oldest first; hours without any are left out."""
        asked = (
            f"SELECT hour, {', '.join(_COUNTS)} FROM hours WHERE tenant = ? AND route = ? AND hour >= ? ORDER BY hour"
        )
        return {row.pop("hour"): Counts.over(**row) for row in self._read_named(asked, (tenant, route, since))}

    def add_minutes(self, minute: int, counts: Mapping[PointerKey, Counts]) -> None:
        """Adds to the counts of routes in one minute (minutes since 1970); they are kept for MINUTES_KEPT."""
        hour, number = divmod(minute, MINUTES)
        with self._writing() as (connection, _):
            for key, added in counts.items():
                at = (hour, *key)
                row = connection.execute(
                    "SELECT counts FROM minutes WHERE hour = ? AND tenant = ? AND route = ?", at
                ).fetchone()
                known = unpacked(row[0]) if row is not None else {}
                known[number] = known.get(number, NO_COUNTS) + added.without_in_flight()
                connection.execute(
                    "INSERT INTO minutes (hour, tenant, route, counts) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (hour, tenant, route) DO UPDATE SET counts = excluded.counts",
                    (*at, packed(known)),
                )
            connection.execute("DELETE FROM minutes WHERE hour < ?", ((minute - MINUTES_KEPT) // MINUTES,))

    def minutes(self, tenant: str, route: str, *, since: int) -> dict[int, Counts]:
        """The counts of a route by the minute, from the minute `since` on, oldest first; empty ones are left out."""
        asked = "SELECT hour, counts FROM minutes WHERE hour >= ? AND tenant = ? AND route = ? ORDER BY hour"
        rows = self._read(asked, (since // MINUTES, tenant, route))
        found = {hour * MINUTES + number: counts for hour, row in rows for number, counts in unpacked(row).items()}
        return {minute: counts for minute, counts in found.items() if minute >= since}

    def put_job(self, job: Job) -> None:
        """Inserts a job, or replaces the one with its id."""
        self._write(
            "INSERT INTO jobs (id, finished, body) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET finished = excluded.finished, body = excluded.body",
            [(job.id, int(job.state in OVER), job.model_dump_json())],
        )

    def jobs(self, *, limit: int = 200) -> list[Job]:
        """Lists all unfinished jobs, and the newest finished ones up to `limit` in all; newest first."""
        with self.database.reading() as connection:
            rows: list[tuple[int, str]] = connection.execute(
                "SELECT seq, body FROM jobs WHERE finished = 0 ORDER BY seq DESC"
            ).fetchall()
            rows += connection.execute(
                "SELECT seq, body FROM jobs WHERE finished = 1 ORDER BY seq DESC LIMIT ?", (max(0, limit - len(rows)),)
            ).fetchall()
        return [Job.model_validate_json(body) for _, body in sorted(rows, reverse=True)]

    def jobs_before(self, job_id: str | None, *, limit: int) -> list[Job]:
        """Jobs submitted before a job (None: the newest), newest first; empty for an unknown job."""
        before, args = ("", ()) if job_id is None else (" WHERE seq < (SELECT seq FROM jobs WHERE id = ?)", (job_id,))
        rows = self._read(f"SELECT body FROM jobs{before} ORDER BY seq DESC LIMIT ?", (*args, limit))
        return [Job.model_validate_json(body) for (body,) in rows]

    def job(self, job_id: str) -> Job | None:
        """The job with this id; None if there is none."""
        rows = self._read("SELECT body FROM jobs WHERE id = ?", (job_id,))
        return Job.model_validate_json(rows[0][0]) if rows else None

    def put_token(self, token: TokenRecord) -> None:
        """Inserts a token's record, or replaces the one with its id."""
        self._write(
            "INSERT INTO tokens (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            [(token.id, token.model_dump_json())],
        )

    def tokens(self) -> list[TokenRecord]:
        """Lists all token records, revoked ones included, in the order of creation."""
        return [
            TokenRecord.model_validate_json(body) for (body,) in self._read("SELECT body FROM tokens ORDER BY rowid")
        ]

    # -- notices, and the channels that have yet to be given them ----------------------------------------

    def add_notices(self, notices: Sequence[tuple[Notice, Sequence[str]]]) -> list[tuple[Notice, Delivery]]:
        """Writes notices, each with the channels that are to be given it, and returns what there is to deliver. One
        whose id is known is left out. NOTICES_KEPT are kept, and those that are yet to be delivered.
        """
        out: list[tuple[Notice, Delivery]] = []
        with self._writing() as (connection, _):
            (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM notices").fetchone()
            for notice, channels in notices:
                if connection.execute("SELECT 1 FROM notices WHERE id = ?", (notice.id,)).fetchone():
                    continue
                last += 1
                row = (last, notice.id, notice.at_ms, notice.model_dump_json())
                connection.execute("INSERT INTO notices (seq, id, at_ms, body) VALUES (?, ?, ?, ?)", row)
                out += ((notice, Delivery(seq=last, channel=channel)) for channel in channels)
            connection.executemany(
                "INSERT INTO deliveries (seq, channel, attempts, next_ms, error) VALUES (?, ?, 0, 0, '')",
                [(delivery.seq, delivery.channel) for _, delivery in out],
            )
            connection.execute(
                "DELETE FROM notices WHERE seq <= ? AND seq NOT IN (SELECT seq FROM deliveries)", (last - NOTICES_KEPT,)
            )
        return out

    def notices(self, limit: int) -> list[NoticeRow]:
        """The newest notices, newest first, and with them what is yet to be delivered."""
        with self.database.reading() as connection:
            rows = named(connection.execute("SELECT seq, body FROM notices ORDER BY seq DESC LIMIT ?", (limit,)))
            waiting = named(connection.execute("SELECT * FROM deliveries ORDER BY seq, channel"))
        by_seq: dict[int, list[Delivery]] = {}
        for one in waiting:
            by_seq.setdefault(one["seq"], []).append(Delivery.model_validate(one))
        return [
            NoticeRow(
                seq=row["seq"],
                notice=Notice.model_validate_json(row["body"]),
                waiting=tuple(by_seq.get(row["seq"], ())),
            )
            for row in rows
        ]

    def deliveries(self) -> list[tuple[Notice, Delivery]]:
        """Lists what is yet to be delivered or was given up, in the order in which it was written."""
        asked = "SELECT d.*, n.body FROM deliveries d JOIN notices n ON n.seq = d.seq ORDER BY d.seq, d.channel"
        rows = self._read_named(asked)
        return [(Notice.model_validate_json(row.pop("body")), Delivery.model_validate(row)) for row in rows]

    def record_delivery(self, delivery: Delivery, *, given: bool) -> None:
        """Writes a delivery's failed attempt, or removes one that was given."""
        key = (delivery.seq, delivery.channel)
        with self._writing() as (connection, _):
            if given:
                connection.execute("DELETE FROM deliveries WHERE seq = ? AND channel = ?", key)
            else:
                connection.execute(
                    "UPDATE deliveries SET attempts = ?, next_ms = ?, error = ? WHERE seq = ? AND channel = ?",
                    (delivery.attempts, delivery.next_ms, delivery.error, *key),
                )

    # -- nodes and settings ------------------------------------------------------------------------------

    def save_fleet(self, change: FleetChange) -> None:
        """Writes what has changed of the nodes, in one transaction."""
        with self._writing() as (connection, _):
            write_fleet(connection, change)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Name -> what is kept of the node."""
        return {name: json.loads(body) for name, body in self._read("SELECT name, body FROM nodes ORDER BY name")}

    def withdrawals(self) -> list[Withdrawal]:
        """Lists all withdrawals that no node has acknowledged."""
        return [Withdrawal(**row) for row in self._read_named("SELECT * FROM withdrawals ORDER BY tenant, route, node")]

    def meta(self, name: str) -> str | None:
        """A named setting of the hub itself; None if it was never set."""
        with self.database.reading() as connection:
            return read_meta(connection, name)

    def set_meta(self, name: str, value: str) -> None:
        """Stores a named setting of the hub itself."""
        with self._writing() as (connection, _):
            write_meta(connection, name, value)


def read_meta(connection: Connection, name: str) -> str | None:
    """A named setting; None if it was never set."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else None


def write_meta(connection: Connection, name: str, value: str) -> None:
    """Stores a named setting, in the transaction that the connection is in."""
    connection.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
    )


def write_fleet(connection: Connection, change: FleetChange) -> None:
    """Writes what has changed of the nodes, in the transaction that the connection is in."""
    nodes, withdrawals = change.nodes, change.withdrawals
    if nodes:
        connection.executemany("DELETE FROM nodes WHERE name = ?", [(name,) for name in nodes])
        connection.executemany(
            "INSERT INTO nodes VALUES (?, ?)",
            [(name, json.dumps(body, sort_keys=True)) for name, body in nodes.items() if body is not None],
        )
    if withdrawals:
        connection.executemany(
            "DELETE FROM withdrawals WHERE node = ? AND tenant = ? AND route = ?",
            [(node, *key) for node, key in withdrawals],
        )
        connection.executemany(
            "INSERT INTO withdrawals (node, tenant, route, rev, refuse_after_s) VALUES (?, ?, ?, ?, ?)",
            [astuple(one) for one in withdrawals.values() if one is not None],
        )


def _registered(connection: Connection, kind: Doc, digest: str) -> StoredDocument | None:
    where, args = _conditions(kind=kind.value, digest=digest)
    rows = named(connection.execute(f"SELECT * FROM documents{where}", args))
    return _document(rows[0]) if rows else None


def _add(
    connection: Connection, new: StoredDocument, *, name: str | None = None, version: int | None = None
) -> StoredDocument:
    (last,) = connection.execute("SELECT max(serial) FROM documents WHERE kind = ?", (new.kind.value,)).fetchone()
    new = replace(new, serial=(last or 0) + 1)
    row = vars(new) | {"kind": new.kind.value, "name": name, "version": version, "body": _json(new.body)}
    connection.execute(f"INSERT INTO documents ({', '.join(row)}) VALUES ({_marks(row)})", tuple(row.values()))
    return new


def _conditions(**equal: str | None) -> tuple[str, tuple[str, ...]]:
    """SQL ` WHERE a = ? AND b = ?` for the columns that are not None (empty if all are), and its arguments."""
    args = {column: str(value) for column, value in equal.items() if value is not None}
    conditions = " AND ".join(f"{column} = ?" for column in args)
    return f" WHERE {conditions}" if args else "", tuple(args.values())


def _marks(row: dict[str, Any]) -> str:
    return ", ".join("?" * len(row))


def _json(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, allow_nan=False)


def _document(row: dict[str, Any]) -> StoredDocument:
    row = row | {"kind": Doc(row["kind"]), "body": json.loads(row["body"])}
    return StoredDocument(**{field.name: row[field.name] for field in fields(StoredDocument)})


def _sums(delta: Served) -> tuple[str | float, ...]:
    # By hand: `asdict` copies what it finds, which takes ten times as long, in a process that has moves to make.
    key, counts = (delta.tenant, delta.route, delta.release), delta.counts
    return (*key, delta.seconds, counts.refused, counts.failed, counts.finished, counts.checked, counts.bad)


_COUNTS = ("refused", "failed", "finished", "checked", "bad")


def _adding(table: str, third: str, sums: Sequence[str]) -> str:
    """The statement that adds to the sums of a row, whose key is tenant, route and a third column."""
    columns = ("tenant", "route", third, *sums)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        f" ON CONFLICT (tenant, route, {third}) DO UPDATE SET "
        + ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
    )


def _served(row: dict[str, Any]) -> Served:
    counts = Counts.over(**{name: row.pop(name) for name in _COUNTS})
    return Served(**row, counts=counts)
