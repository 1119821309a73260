"""The console's own log: why one ended, kept where the next one, or a person, can look."""

import contextlib
import logging
import logging.handlers
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

from loradeck.client.config import state_path

MOST_BYTES = 1_000_000
"""Largest size of a log file in bytes; one earlier file is kept beside it."""


def keep_log() -> Path | None:
    """Log to the console's file from now on. Returns its path; None if it cannot be written: it runs without."""
    path = state_path() / "console.log"
    logger = logging.getLogger("loradeck.console")
    if logger.handlers:
        return path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=MOST_BYTES, backupCount=1, encoding="utf-8")
        path.chmod(0o600)
    except OSError:
        return None
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(process)d %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return path


def report_end(status: int, path: Path | None) -> None:
    """Write one line to stderr after a console that was not left by its own key, if the terminal is still there."""
    why = f"ended by {signal.Signals(status - 128).name}" if status > 128 else "ended by a fault of its own"
    where = f"; log: {path}" if path is not None else ""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"loradeck: {why}; what was sent goes on at the hub{where}\n")
    for stream in (sys.stdout, sys.stderr):
        _drop_unwritten(stream)


def _drop_unwritten(stream: IO[str]) -> None:
    """Send what a stream could not write to nowhere, if its terminal is gone.

    Python flushes both streams once more when it exits, and would end with status 120 in place of the signal's.
    """
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
