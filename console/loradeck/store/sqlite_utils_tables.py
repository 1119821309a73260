"""sqlite-utils as a hub needs it.

Where pandas and numpy are installed, sqlite-utils imports them for the types of its columns, and pyarrow with them:
135 MB and most of a second for something no hub asks for. It is told that there are none.
"""

from __future__ import annotations

import sys

_hidden = [name for name in ("pandas", "numpy") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_hidden))  # type: ignore[arg-type]  # an import of None raises ImportError
try:
    from sqlite_utils import Database as Tables
    from sqlite_utils.utils import sqlite3  # pysqlite3 where it is installed
finally:
    for _name in _hidden:
        del sys.modules[_name]

__all__ = ["Tables", "sqlite3"]
