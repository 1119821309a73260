"""Copies one database to another, of whichever kind: the same log, with all that is kept beside it."""

from typing import Any

from loradeck.store.interface import StoreError
from loradeck.store.lease import locked_head
from loradeck.store.sql_database import Connection

PAGE = 1000
"""Rows that are read at once."""

_PAGED = {"events": "rev", "ledger_segments": "n", "feedback": "n"}
_PAGED |= dict.fromkeys(("audit", "attestations", "jobs"), "seq")
"""The tables that grow without end, and the number by which they are read in pages."""

_TABLES = (
    "events",
    "keys",
    "pointers",
    "tenants",
    "head",
    "incarnations",
    "documents",
    "attestations",
    "served",
    "hours",
    "minutes",
    "jobs",
    "tokens",
    "meta",
    "nodes",
    "withdrawals",
    "audit",
    "notices",
    "deliveries",
    "ledger_segments",
    "feedback",
    "input_days",
)
_BY_THE_HOUR = "minutes"
"""The table that is read hour by hour: it is the largest, and has no number of its own."""

_COLUMNS = {"events": "rev, body", "tokens": "rowid, id, body"}
"""Where they are not all of the table's: the others of `events` are computed, and SQLite does not list `rowid`."""


def copy_tables(source: Connection, target: Connection) -> None:
    """Copies every row, in the transactions that the connections are in. Nobody holds the lease of the copy.

    Raises: StoreError: the target has a log already.
    """
    head = locked_head(target)
    if head.rev or head.lease.epoch:
        raise StoreError(f"the target has a log already, at epoch {head.lease.epoch} and rev {head.rev}")
    target.execute("DELETE FROM head")
    for table in _TABLES:
        _copy(table, source, target)
    target.execute("UPDATE head SET holder = '', expires_ms = NULL")


def _copy(table: str, source: Connection, target: Connection) -> None:
    if table == _BY_THE_HOUR:
        for (hour,) in source.execute(f"SELECT DISTINCT hour FROM {table} ORDER BY hour").fetchall():
            _insert(table, source.execute(f"SELECT * FROM {table} WHERE hour = ?", (hour,)), target)
        return
    columns, number, after = _COLUMNS.get(table, "*"), _PAGED.get(table), 0
    while True:
        page = f" WHERE {number} > ? ORDER BY {number} LIMIT {PAGE}" if number else ""
        found = source.execute(f"SELECT {columns} FROM {table}{page}", (after,) if number else ())
        rows, names = _insert(table, found, target)
        if number is None or len(rows) < PAGE:
            return
        after = rows[-1][names.index(number)]


def _insert(table: str, found: Any, target: Connection) -> tuple[list[Any], list[str]]:
    """Inserts the rows of a query. Returns them, and the names of their columns."""
    rows, names = found.fetchall(), [str(column[0]) for column in found.description]
    if rows:
        listed, marks = ", ".join(f'"{name}"' for name in names), ", ".join("?" * len(names))
        target.executemany(f"INSERT INTO {table} ({listed}) VALUES ({marks})", rows)
    return rows, names
