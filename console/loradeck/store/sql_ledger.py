"""The segments of the answer ledger in the store in SQL. Their files are blobs."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

from loradeck.rules.data.answer_ledger import SEGMENT_SPAN_MS
from loradeck.schemas.ledger_segment import Segment
from loradeck.store.sql_records import SqlRecords

_PUT = (
    "INSERT INTO ledger_segments (n, sha256, tenant, chain, seq, last_ms, anchored, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (sha256) DO UPDATE SET anchored = excluded.anchored, body = excluded.body"
)


class SqlLedger(SqlRecords):
    """The part of the store in SQL that holds the segments of the answer ledger."""

    def put_segments(self, segments: Sequence[Segment]) -> None:
        """Inserts the records of segments, or replaces those with their digests, in one transaction."""
        with self._writing() as (connection, _):
            (last,) = connection.execute("SELECT coalesce(max(n), 0) FROM ledger_segments").fetchone()
            columns = attrgetter("sha256", "tenant", "chain", "seq", "last_ms")
            rows = [
                (n, *columns(one), int(one.anchor is not None), one.model_dump_json())
                for n, one in enumerate(segments, start=last + 1)
            ]
            connection.executemany(_PUT, rows)

    def segments_at(self, tenant: str, since_ms: int, until_ms: int, *, limit: int) -> list[Segment]:
        """A tenant's segments that may have rows admitted between two times (both included), oldest first. Of `limit`
        that were read, those that begin later are left out.
        """
        where = "tenant = ? AND last_ms >= ? AND last_ms <= ? ORDER BY last_ms, n"
        found = self._segments(where, (tenant, since_ms, until_ms + SEGMENT_SPAN_MS), limit)
        return [segment for segment in found if segment.first_ms <= until_ms]

    def segments_of(self, chain: str, tenant: str, *, from_seq: int, limit: int) -> list[Segment]:
        """The segments of a chain and tenant from a number on, in the order of their numbers."""
        return self._segments("chain = ? AND tenant = ? AND seq >= ? ORDER BY seq, n", (chain, tenant, from_seq), limit)

    def segments_ended(self, tenant: str, before_ms: int, *, limit: int) -> list[Segment]:
        """A tenant's segments whose last row was admitted before a time, oldest first."""
        return self._segments("tenant = ? AND last_ms < ? ORDER BY last_ms", (tenant, before_ms), limit)

    def segments_to_anchor(self, *, limit: int) -> list[Segment]:
        """The segments without an anchor, in the order in which they came."""
        return self._segments("anchored = 0 ORDER BY n", (), limit)

    def drop_segments(self, sha256s: Iterable[str]) -> None:
        """Removes the records of segments, in one transaction. Those that are not there are passed over."""
        self._write("DELETE FROM ledger_segments WHERE sha256 = ?", [(sha256,) for sha256 in sha256s])

    def _segments(self, where: str, args: tuple[object, ...], limit: int) -> list[Segment]:
        rows = self._read(f"SELECT body FROM ledger_segments WHERE {where} LIMIT ?", (*args, limit))
        return [Segment.model_validate_json(body) for (body,) in rows]
