"""The folder of rows for the answer ledger, which a router writes and the agent takes away.

FOLDER/*.open   the rows of the running hour; its writer holds an flock on it, so that one without is nobody's any more
FOLDER/*.rows   complete

A line is the tenant, the admission in milliseconds since 1970 UTC and the row as JSON, with tabs between. One that
begins with a tab has the number of rows that had to be given up before it.
"""

import fcntl
import os
from pathlib import Path

FOLDER = "ledger"
OPEN, COMPLETE = ".open", ".rows"

FOLDER_BYTES = 512 << 20
"""Most bytes of files that no router writes any more. Beyond it the oldest go, while no agent takes them."""


def unlocked(path: Path) -> bool:
    """Tells whether no router writes a file any more."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
