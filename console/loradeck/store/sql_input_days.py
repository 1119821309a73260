"""Counts of what callers ask, by route and day, in the store in SQL."""

import zlib
from collections.abc import Mapping

from loradeck.schemas.input_counts import InputCounts
from loradeck.store.sql_records import SqlRecords

_AT = "tenant = ? AND route = ? AND day = ?"


class SqlInputDays(SqlRecords):
    """The part of the store in SQL that holds counts of what callers ask."""

    def add_inputs(self, tenant: str, counts: InputCounts) -> None:
        """Adds counts to those of their day, which stay as they are where they would pass the most."""
        at = (tenant, counts.route, counts.day)
        with self._writing() as (connection, _):
            row = connection.execute(f"SELECT body FROM input_days WHERE {_AT}", at).fetchone()
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
