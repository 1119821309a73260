"""How many files a process may have open. A connection is one, and the usual limit of 1,024 is soon reached."""

from __future__ import annotations

import resource


def allow_open_files() -> None:
    """Raises this process's limit to what the host allows it.

    A request under way costs a router two: at the limit it takes in nobody, reaches no engine, and cannot be
    told by its agent to go back to another release.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
