"""Feedback in the store in SQL."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

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


class SqlFeedback(SqlRecords):
    """The part of the store in SQL that holds feedback."""

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
