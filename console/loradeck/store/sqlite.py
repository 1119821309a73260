"""The store in one SQLite file: the embedded default, for a hub that has its database to itself."""

from collections.abc import Callable
from pathlib import Path

from loradeck.store.database import SQLITE_VERSION, Database, wall_ms
from loradeck.store.sql_log import Store


class SqliteStore(Store):
    """The `Store` in one SQLite file.

    Args:
        path: the database; created with its folder (0700) if missing.
        clock_ms: wall clock, milliseconds since 1970 UTC.

    Raises: Unusable: see `Database`. Nothing was changed.
    """

    version = f"SQLite {SQLITE_VERSION}"

    def __init__(self, path: str | Path, *, clock_ms: Callable[[], int] = wall_ms) -> None:
        super().__init__(Database(Path(path), clock_ms))
