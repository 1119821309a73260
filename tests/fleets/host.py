"""What the parts of a fleet take of the machine that they run on: ports, and folders with short paths."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path, for the length of the block: the path of a Unix socket may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
