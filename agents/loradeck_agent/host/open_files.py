"""The limit of open files. A connection is one, and the usual limit of 1,024 is soon reached."""

import resource


def allow_open_files() -> None:
    """Raises this process's limit to what the host allows it.

    A request under way costs a router two. At the limit it accepts nobody and reaches no engine, and its agent
    cannot make it go back to another release.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
