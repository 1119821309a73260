"""What the store in SQL keeps of what tenants are asked: feedback, segments of the answer ledger, counts of inputs.

The files of segments are blobs.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from loradeck.rules.data.answer_ledger import SEGMENT_SPAN_MS
from loradeck.schemas.answer_ledger import Segment
from loradeck.schemas.counts import InputCounts
from loradeck.schemas.feedback import Feedback
from loradeck.store.sql_records import SqlRecords

_PUT = (
    "INSERT INTO feedback (n, tenant, request, kind, caller, at_ms, tied, body, sealed)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, request, kind, caller) DO UPDATE SET n = excluded.n,"
    " at_ms = excluded.at_ms, tied = excluded.tied, body = excluded.body, sealed = excluded.sealed"
)

_KNOWN = "SELECT sealed FROM feedback WHERE tenant = ? AND request = ? AND kind = ? AND caller = ?"
_TIE = (
    "UPDATE feedback SET n = ?, tied = ?, body = ?, sealed = ? WHERE n = ?"
    " AND tenant = ? AND request = ? AND kind = ? AND caller = ? AND at_ms = ? AND sealed IN ('', ?)"
)

_BY_DAY = (
    "SELECT {route}, at_ms / 86400000, CASE WHEN caller = '' THEN request ELSE caller END, kind, {value}, count(*)"
    " FROM feedback WHERE tenant = ? AND tied <> '' AND kind IN ('thumb', 'correction') GROUP BY 1, 2, 3, 4, 5"
)
_SINCE = (
    "SELECT count(CASE WHEN kind = 'correction' THEN 1 END), count(DISTINCT CASE WHEN kind IN ('correction', 'label')"
    " OR (kind = 'thumb' AND {value} = 'down') OR CAST({bad} AS TEXT) IN ('1', 'true') THEN request END)"
    " FROM feedback WHERE tenant = ? AND at_ms > ? AND tied <> '' AND {route} = ?"
)
_PUT_SEGMENT = (
    "INSERT INTO ledger_segments (n, sha256, tenant, chain, seq, last_ms, anchored, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (sha256) DO UPDATE SET anchored = excluded.anchored, body = excluded.body"
)
_DAY = "tenant = ? AND route = ? AND day = ?"


class DaysFeedback(NamedTuple):
    """How often somebody said the same of answers on one day, of what something vouches for.

    Attributes:
        day: days since 1970 UTC.
        who: the beginning of the digest of a caller's key; of what was imported, the request.
    """

    route: str
    day: int
    who: str
    kind: str
    value: str
    times: int


class SqlTenantData(SqlRecords):
    """The part of the store in SQL that holds feedback, segments of the answer ledger and counts of inputs."""

    # -- feedback ----------------------------------------------------------------------------------------

    def put_feedback(self, rows: Sequence[Feedback]) -> list[str | None]:
        """Writes feedback, in one transaction. What a caller says again of one answer replaces what it said before.

        Returns for each row what was `sealed` in the one that it replaces; None: it replaces none.
        """
        with self._writing() as (connection, _):
            (last,) = connection.execute("SELECT coalesce(max(n), 0) FROM feedback").fetchone()
            values = [
                (last + i, *f.key, f.at_ms, f.tied, f.model_dump_json(), f.sealed) for i, f in enumerate(rows, start=1)
            ]
            known = [connection.execute(_KNOWN, row.key).fetchone() for row in rows]
            connection.executemany(_PUT, values)
        return [before and before[0] for before in known]

    def tie_feedback(self, rows: Sequence[tuple[int, Feedback]]) -> None:
        """Writes what vouches for feedback that waited, or that it is sealed, by the number that it had, in one
        transaction. What was removed or said anew meanwhile stays as it is.
        """
        with self._writing() as (connection, _):
            (last,) = connection.execute("SELECT coalesce(max(n), 0) FROM feedback").fetchone()
            values = [
                (last + i, f.tied, f.model_dump_json(), f.sealed, n, *f.key, f.at_ms, f.sealed)
                for i, (n, f) in enumerate(rows, start=1)
            ]
            connection.executemany(_TIE, values)

    def feedback(self, tenant: str, *, after: int = 0, tied: bool = True, limit: int) -> list[tuple[int, Feedback]]:
        """A tenant's feedback after a number, in the order in which it came, with the number of each.

        `tied`: only what something vouches for; else only what waits for that.
        """
        where = f"tenant = ? AND n > ? AND tied {'<>' if tied else '='} '' ORDER BY n LIMIT ?"
        return self._feedback(where, (tenant, after, limit))

    def feedback_waiting(self, *, after: int = 0, limit: int) -> list[tuple[int, Feedback]]:
        """Feedback of all tenants that nothing vouches for yet, after a number, in the order in which it came."""
        return self._feedback("tied = '' AND n > ? ORDER BY n LIMIT ?", (after, limit))

    def texts(self, *, sealed: bool, after: int = 0, limit: int) -> list[tuple[int, Feedback]]:
        """Feedback of all tenants whose texts are sealed, or are not, after a number."""
        which = "sealed <> ''" if sealed else "sealed = '' AND kind <> 'thumb'"
        return self._feedback(f"{which} AND n > ? ORDER BY n LIMIT ?", (after, limit))

    def feedback_by_day(self, tenant: str) -> list[DaysFeedback]:
        """Counts a tenant's thumbs and corrections, by route, day and who gave them. Their texts are not read."""
        names = {name: self.database.field.format(name) for name in ("route", "value")}
        return [DaysFeedback(*row) for row in self._read(_BY_DAY.format(**names), (tenant,))]

    def called_wrong(self, tenant: str, route: str, *, after_ms: int) -> tuple[int, int]:
        """Counts corrections on a route, and the answers of which `rules.data.backlog.asks` is true.

        Both of what was said after a time, and something vouches for. Texts are not read.
        """
        names = {name: self.database.field.format(name) for name in ("route", "value", "bad")}
        ((corrections, answers),) = self._read(_SINCE.format(**names), (tenant, after_ms, route))
        return corrections, answers

    def drop_feedback(self, rows: Iterable[Feedback]) -> None:
        """Removes feedback, in one transaction. What is not there is passed over."""
        self._write(
            "DELETE FROM feedback WHERE tenant = ? AND request = ? AND kind = ? AND caller = ?", [f.key for f in rows]
        )

    def withdraw_feedback(self, tenant: str, requests: Iterable[str], until_ms: int) -> None:
        """Removes feedback on requests of a tenant's that was given until a time, in one transaction."""
        drop = "DELETE FROM feedback WHERE tenant = ? AND request = ? AND at_ms <= ?"
        self._write(drop, [(tenant, request, until_ms) for request in requests])

    def expire_feedback(self, before: dict[str, int]) -> int:
        """Removes what was given before a time, by tenant, milliseconds since 1970 UTC. Returns how many went."""
        drop = "DELETE FROM feedback WHERE tenant = ? AND at_ms < ? RETURNING n"
        with self._writing() as (connection, _):
            return sum(len(connection.execute(drop, one).fetchall()) for one in before.items())

    def _feedback(self, where: str, args: tuple[object, ...]) -> list[tuple[int, Feedback]]:
        rows = self._read(f"SELECT n, body, sealed FROM feedback WHERE {where}", args)
        return [(n, Feedback.model_validate_json(body).model_copy(update={"sealed": under})) for n, body, under in rows]

    # -- segments of the answer ledger -------------------------------------------------------------------

    def put_segments(self, segments: Sequence[Segment]) -> None:
        """Inserts the records of segments, or replaces those with their digests, in one transaction."""
        with self._writing() as (connection, _):
            (last,) = connection.execute("SELECT coalesce(max(n), 0) FROM ledger_segments").fetchone()
            columns = attrgetter("sha256", "tenant", "chain", "seq", "last_ms")
            rows = [
                (n, *columns(one), int(one.anchor is not None), one.model_dump_json())
                for n, one in enumerate(segments, start=last + 1)
            ]
            connection.executemany(_PUT_SEGMENT, rows)

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

    # -- counts of what callers ask, by route and day -----------------------------------------------------

    def add_inputs(self, tenant: str, counts: InputCounts) -> None:
        """Adds counts to those of their day, which stay as they are where they would pass the most."""
        at = (tenant, counts.route, counts.day)
        with self._writing() as (connection, _):
            row = connection.execute(f"SELECT body FROM input_days WHERE {_DAY}", at).fetchone()
            body = zlib.compress((_parsed(row[0]) + counts if row is not None else counts).model_dump_json().encode())
            connection.execute(
                "INSERT INTO input_days (tenant, route, day, body) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (tenant, route, day) DO UPDATE SET body = excluded.body",
                (*at, body),
            )

    def inputs(self, tenant: str, route: str) -> list[InputCounts]:
        """The counts of a route, oldest day first."""
        asked = "SELECT body FROM input_days WHERE tenant = ? AND route = ? ORDER BY day"
        return [_parsed(body) for (body,) in self._read(asked, (tenant, route))]

    def expire_inputs(self, before: Mapping[str, int]) -> None:
        """Removes the days of tenants that lie before a day, in one transaction."""
        self._write("DELETE FROM input_days WHERE tenant = ? AND day < ?", list(before.items()))


def _parsed(body: bytes) -> InputCounts:
    return InputCounts.model_validate_json(zlib.decompress(body))
