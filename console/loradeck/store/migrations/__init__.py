"""The database's schema, as SQL files that are applied in the order of their names, each once.

In SQLite, sqlite-utils applies them and writes down which ones a database has, in its table `_sqlite_migrations`: that
table alone says what the schema is. PostgreSQL's are in a folder of their own, and `store.postgres` applies them. A
file that was released is never changed; a change of the schema is a new file in both, with its way back beside it in
a file that ends in `.down.sql`, SQLite's where PostgreSQL has none of its own; a migration without one cannot be taken
back (`store.downgrade`).
"""

import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from loradeck.store.sqlite_utils_tables import Migrations

_DOWN = r"(\d{4}_\w+)\.down\.sql$"

USER_VERSION = 2
"""`PRAGMA user_version` of every database whose migrations are in the table.

Version 0.1.0 wrote 1 and kept no table; it refuses to open a database with a 2.
"""


def scripts(database: str = "") -> list[tuple[str, str]]:
    """Returns name and SQL of every migration of SQLite, or of `database`, in order."""
    return sorted(_named(database, r"(\d{4}_\w+)\.sql$").items())


def downs(database: str = "") -> dict[str, str]:
    """Returns the SQL that takes a migration of SQLite, or of `database`, back, by its name, where there is one."""
    found = {**_named("", _DOWN), **_named(database, _DOWN)}
    return {name: found[name] for name, _ in scripts(database) if name in found}


def newest(database: str = "") -> str:
    """Returns the name of the newest migration that this program knows."""
    return scripts(database)[-1][0]


def _named(database: str, pattern: str) -> dict[str, str]:
    folder = files(__name__).joinpath(database)
    return {m[1]: entry.read_text() for entry in folder.iterdir() if (m := re.match(pattern, entry.name))}


class Schema:
    """The migrations of one database: what it has, what it lacks, and whether this program may open it.

    `tables`: sqlite-utils' view of the connection, with no transaction open.
    """

    def __init__(self, tables: Any) -> None:
        self._tables = tables
        self._migrations = Migrations("loradeck")
        self.user_version = int(tables.execute("PRAGMA user_version").fetchone()[0])
        for number, (name, sql) in enumerate(scripts(), start=1):
            # A database of version 0.1.0 has the first one already: it is only written down.
            self._migrations(name=name)(_script("" if number == self.user_version == 1 else sql))

    def unknown(self) -> str | None:
        """Returns the first thing about the schema that this program does not know; None: it knows the schema."""
        if self.user_version > USER_VERSION:
            return f"schema {self.user_version}"
        known = {name for name, _ in scripts()}
        return next((one.name for one in self._migrations.applied(self._tables) if one.name not in known), None)

    def migrate(self, application_id: int) -> None:
        """Applies what the database lacks, in one transaction. Raises: sqlite3.Error: nothing was changed."""
        if self.user_version == USER_VERSION and not self._migrations.pending(self._tables):
            return
        with self._tables.atomic():
            self._migrations.apply(self._tables)
            self._tables.execute(f"PRAGMA application_id = {application_id}")
            self._tables.execute(f"PRAGMA user_version = {USER_VERSION}")

    def take_back(self, steps: Sequence[tuple[str, str]]) -> None:
        """Runs the scripts that take migrations back, in the transaction that is open, and forgets the migrations."""
        for name, sql in steps:
            self._tables.executescript(sql)
            self._tables[self._migrations.migrations_table].delete_where(
                "migration_set = ? AND name = ?", [self._migrations.name, name]
            )


def _script(sql: str) -> Callable[[Any], None]:
    """A migration that runs SQL statements. sqlite-utils splits them; the driver's own call would commit first."""

    def apply(tables: Any) -> None:
        tables.executescript(sql)

    return apply
