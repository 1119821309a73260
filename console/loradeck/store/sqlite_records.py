"""Records of the SQLite store beside the log: registry, attestations, traffic, jobs, tokens and settings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Unpack

from loradeck.schemas.attestation import Attestation, AttestationFilter
from loradeck.schemas.counts import Counts
from loradeck.schemas.jobs import OVER, Job
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion
from loradeck.schemas.tenant import TokenRecord
from loradeck.store.database import Database
from loradeck.store.interface import Doc, FleetChange, Registered, Served, StoreError, Withdrawal
from loradeck.store.lease import Head, Lease, hold_lease, new_holder

if TYPE_CHECKING:
    from sqlite3 import Connection


def wall_ms() -> int:
    """The wall clock, in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class SqliteRecords:
    """The part of the SQLite store that is not the log. Every write holds the lease in its own transaction."""

    def __init__(self, database: Database, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._holder = new_holder()
        self._lease: Lease | None = None
        """The lease that this store holds; None before `take_lease`."""

    @contextmanager
    def _writing(self) -> Iterator[tuple[Connection, Head]]:
        with self._database.transaction() as connection:
            yield connection, hold_lease(connection, self._lease)

    # -- the registry ------------------------------------------------------------------------------------

    def register(self, kind: Doc, digest: str, body: dict[str, Any], *, tenant: str | None, by: str) -> Registered:
        """Adds a document unless its digest is registered; see `Store.register`."""
        with self._writing():
            return self._registered(kind, digest) or self._add(kind, digest, body, tenant=tenant, by=by)

    def register_adapter(self, manifest: dict[str, Any], digest: str, release: str, *, by: str) -> Registered:
        """Adds an AdapterVersion under the next version number; see `Store.register_adapter`.

        Raises:
            StoreError: `digest` is not the manifest's.
        """
        parsed = AdapterManifest.model_validate(manifest)
        if parsed.digest != digest:
            raise StoreError(f"the manifest's digest is {parsed.digest}, not {digest}; nothing was registered")
        with self._writing() as (connection, _):
            if known := self._registered(Doc.ADAPTER, digest):
                return known
            (last,) = connection.execute(
                "SELECT max(version) FROM documents WHERE tenant = ? AND name = ? AND version IS NOT NULL",
                (parsed.tenant, parsed.name),
            ).fetchone()
            version = AdapterVersion(
                manifest=parsed,
                digest=digest,
                version=(last or 0) + 1,
                release=release,
                created_ms=self._clock_ms(),
                created_by=by,
            )
            return self._add(
                Doc.ADAPTER,
                digest,
                version.model_dump(mode="json"),
                tenant=parsed.tenant,
                by=by,
                name=parsed.name,
                version=version.version,
                created_ms=version.created_ms,
            )

    def registry(self, kind: Doc, *, tenant: str | None = None) -> list[Registered]:
        """Documents of a kind, in the order of registration."""
        where, args = _conditions(kind=kind.value, tenant=tenant)
        with self._database.reading():
            rows = self._database.tables["documents"].rows_where(where, args, order_by="serial")
            return [_document(row) for row in rows]

    def _registered(self, kind: Doc, digest: str) -> Registered | None:
        where, args = _conditions(kind=kind.value, digest=digest)
        rows = list(self._database.tables["documents"].rows_where(where, args))
        return _document(rows[0]) if rows else None

    def _add(
        self,
        kind: Doc,
        digest: str,
        body: dict[str, Any],
        *,
        tenant: str | None,
        by: str,
        name: str | None = None,
        version: int | None = None,
        created_ms: int | None = None,
    ) -> Registered:
        tables = self._database.tables
        (last,) = tables.execute("SELECT max(serial) FROM documents WHERE kind = ?", (kind.value,)).fetchone()
        tables["documents"].insert(
            {
                "kind": kind.value,
                "digest": digest,
                "serial": (last or 0) + 1,
                "tenant": tenant,
                "name": name,
                "version": version,
                "created_ms": self._clock_ms() if created_ms is None else created_ms,
                "created_by": by,
                "body": json.dumps(body, ensure_ascii=False, allow_nan=False),
            }
        )
        added = self._registered(kind, digest)
        assert added is not None  # inserted above, in this transaction
        return added

    # -- attestations ------------------------------------------------------------------------------------

    def attest(self, attestation: Attestation) -> Attestation:
        """Stores one attestation; see `Store.attest`."""
        return self.attest_all([attestation])[0]

    def attest_all(self, attestations: Sequence[Attestation]) -> list[Attestation]:
        """Stores attestations in one transaction, with the clock's time where they have none."""
        written = []
        with self._writing():
            for attestation in attestations:
                at_ms = attestation.at_ms or self._clock_ms()
                row = attestation.model_dump(mode="json", exclude={"seq"}) | {"at_ms": at_ms}
                row["body"] = json.dumps(row["body"], ensure_ascii=False, allow_nan=False)
                seq = self._database.tables["attestations"].insert(row).last_pk
                written.append(attestation.model_copy(update={"seq": seq, "at_ms": at_ms}))
        return written

    def attestations(self, **wanted: Unpack[AttestationFilter]) -> list[Attestation]:
        """Attestations that match all conditions, oldest first."""
        where, args = _conditions(**wanted)
        with self._database.reading():
            rows = self._database.tables["attestations"].rows_where(where, args, order_by="seq")
            return [Attestation.model_validate(row | {"body": json.loads(row["body"])}) for row in rows]

    # -- traffic, jobs, tokens, settings -----------------------------------------------------------------

    def add_served(self, deltas: Iterable[Served]) -> None:
        """Adds to the sums in the table `served`, in one transaction."""
        with self._writing() as (connection, _):
            connection.executemany(
                "INSERT INTO served (tenant, route, release, seconds, refused, failed, finished, checked, bad)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds,"
                " refused = refused + excluded.refused, failed = failed + excluded.failed,"
                " finished = finished + excluded.finished, checked = checked + excluded.checked,"
                " bad = bad + excluded.bad",
                [_sums(delta) for delta in deltas],
            )

    def served(self) -> list[Served]:
        """All sums, sorted by tenant, route and release."""
        with self._database.reading():
            rows = self._database.tables["served"].rows_where(order_by="tenant, route, release")
            return [_served(row) for row in rows]

    def put_job(self, job: Job) -> None:
        """Inserts a job, or replaces the one with its id."""
        # By hand: sqlite-utils' upsert takes ten times as long (257 µs), and moves wait behind it.
        with self._writing() as (connection, _):
            connection.execute(
                "INSERT INTO jobs (id, finished, body) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET finished = excluded.finished, body = excluded.body",
                (job.id, job.state in OVER, job.model_dump_json()),
            )

    def jobs(self, *, limit: int = 200) -> list[Job]:
        """All unfinished jobs, and finished ones up to `limit` in all; newest first."""
        with self._database.reading() as connection:
            rows: list[tuple[int, str]] = connection.execute(
                "SELECT seq, body FROM jobs WHERE finished = 0 ORDER BY seq DESC"
            ).fetchall()
            rows += connection.execute(
                "SELECT seq, body FROM jobs WHERE finished = 1 ORDER BY seq DESC LIMIT ?", (max(0, limit - len(rows)),)
            )
        return [Job.model_validate_json(body) for _, body in sorted(rows, reverse=True)]

    def jobs_before(self, job_id: str | None, *, limit: int) -> list[Job]:
        """Jobs submitted before a job (None: the newest), newest first; empty for an unknown job."""
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT body FROM jobs WHERE :id IS NULL OR seq < (SELECT seq FROM jobs WHERE id = :id)"
                " ORDER BY seq DESC LIMIT :limit",
                {"id": job_id, "limit": limit},
            ).fetchall()
        return [Job.model_validate_json(body) for (body,) in rows]

    def job(self, job_id: str) -> Job | None:
        """The job with this id; None if there is none."""
        with self._database.reading():
            rows = list(self._database.tables["jobs"].rows_where("id = ?", [job_id]))
        return Job.model_validate_json(rows[0]["body"]) if rows else None

    def put_token(self, token: TokenRecord) -> None:
        """Inserts a token's record, or replaces the one with its id."""
        with self._writing():
            self._database.tables["tokens"].upsert({"id": token.id, "body": token.model_dump_json()}, pk="id")

    def tokens(self) -> list[TokenRecord]:
        """All token records, in the order of creation."""
        with self._database.reading():
            rows = self._database.tables["tokens"].rows_where(order_by="rowid")
            return [TokenRecord.model_validate_json(row["body"]) for row in rows]

    def save_fleet(self, change: FleetChange) -> None:
        """Writes what has changed of the nodes, in one transaction."""
        with self._writing() as (connection, _):
            write_fleet(connection, change)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Name -> what is kept of the node."""
        with self._database.reading():
            rows = self._database.tables["nodes"].rows_where(order_by="name")
            return {row["name"]: json.loads(row["body"]) for row in rows}

    def withdrawals(self) -> list[Withdrawal]:
        """All withdrawals that no node has acknowledged."""
        with self._database.reading():
            rows = self._database.tables["withdrawals"].rows_where(order_by="tenant, route, node")
            return [Withdrawal(**row) for row in rows]

    def meta(self, name: str) -> str | None:
        """A named setting of the hub; None if it was never set."""
        with self._database.reading():
            rows = list(self._database.tables["meta"].rows_where("name = ?", [name]))
        return str(rows[0]["value"]) if rows else None

    def set_meta(self, name: str, value: str) -> None:
        """Stores a named setting of the hub."""
        with self._writing():
            self._database.tables["meta"].upsert({"name": name, "value": value}, pk="name")


def write_fleet(connection: Connection, change: FleetChange) -> None:
    """Writes what has changed of the nodes, in the transaction that the connection is in."""
    nodes, withdrawals = change.nodes, change.withdrawals
    connection.executemany("DELETE FROM nodes WHERE name = ?", [(name,) for name in nodes])
    connection.executemany(
        "INSERT INTO nodes VALUES (?, ?)",
        [(name, json.dumps(body, sort_keys=True)) for name, body in nodes.items() if body is not None],
    )
    connection.executemany(
        "DELETE FROM withdrawals WHERE node = ? AND tenant = ? AND route = ?",
        [(node, *key) for node, key in withdrawals],
    )
    connection.executemany(
        "INSERT INTO withdrawals VALUES (:node, :tenant, :route, :rev, :refuse_after_s)",
        [asdict(one) for one in withdrawals.values() if one is not None],
    )


def _conditions(**equal: str | None) -> tuple[str | None, dict[str, str]]:
    """SQL `a = :a AND b = :b` for the columns that are not None (None if all are), and its arguments."""
    args = {column: value for column, value in equal.items() if value is not None}
    return " AND ".join(f"{column} = :{column}" for column in args) or None, args


def _document(row: dict[str, Any]) -> Registered:
    return Registered(
        digest=row["digest"],
        kind=Doc(row["kind"]),
        body=json.loads(row["body"]),
        tenant=row["tenant"],
        created_ms=row["created_ms"],
        created_by=row["created_by"],
        serial=row["serial"],
    )


def _sums(delta: Served) -> tuple[str | float, ...]:
    # By hand: `asdict` copies what it finds, which takes ten times as long, in a process that has moves to make.
    key, counts = (delta.tenant, delta.route, delta.release), delta.counts
    return (*key, delta.seconds, counts.refused, counts.failed, counts.finished, counts.checked, counts.bad)


def _served(row: dict[str, Any]) -> Served:
    counts = Counts.over(**{name: row.pop(name) for name in ("refused", "failed", "finished", "checked", "bad")})
    return Served(**row, counts=counts)
