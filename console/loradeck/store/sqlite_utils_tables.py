"""sqlite-utils as a hub needs it: its database and its migrations, without pandas and numpy.

Where the two are installed (the `train` extra brings them), sqlite-utils imports them for the types of its columns,
and pyarrow with them. Measured in a fresh process, three times each, two cores, sqlite-utils 4.2.1: 103 MB more memory
and 1.9 to 2.5 s with them, 17 MB and 0.2 to 0.3 s without, and no hub stores a data frame. sqlite-utils has no setting
for it, so it finds, for the length of its own import, that neither is installed.
"""

import sys

_hidden = [name for name in ("pandas", "numpy") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_hidden))  # type: ignore[arg-type]  # an import of None raises ImportError
try:
    from sqlite_utils import Database as Tables
    from sqlite_utils import Migrations
    from sqlite_utils.utils import sqlite3  # pysqlite3 where it is installed
finally:
    for _name in _hidden:
        del sys.modules[_name]

__all__ = ["Migrations", "Tables", "sqlite3"]
