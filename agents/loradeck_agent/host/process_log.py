"""Log lines of a process on stderr, and trims of the log files of router and engines.

They run for months, and a disk that their logs have filled refuses the router's table: then nothing can be
rolled back on this node.
"""

import asyncio
import logging
import os
import shutil
import sys
import time
from pathlib import Path

log = logging.getLogger(__name__)

LOG_BYTES = 16 * 2**20
LOOK_S = 30.0


def log_to_stderr(level: str) -> None:
    """Logs to stderr, with times in UTC, from this level on; of the link's library only warnings."""
    logging.Formatter.converter = time.gmtime
    form = "%(asctime)sZ %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format=form, datefmt="%Y-%m-%dT%H:%M:%S")
    logging.getLogger("websockets").setLevel(logging.WARNING)


async def keep_trimmed(path: Path) -> None:
    """Trims a log twice a minute until cancelled, while its writer goes on."""
    while True:
        await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(trim, path)


def trim(path: Path) -> None:
    """Empties a log of more than LOG_BYTES and keeps its newest bytes beside it, as `NAME.1`. Blocks.

    It is emptied in place, because its writer has it open to append; lines written meanwhile may be lost. On a
    disk that has no room for the copy it is emptied all the same.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    if size <= LOG_BYTES:
        return
    try:
        _copy_end(path, path.with_name(path.name + ".1"), size - LOG_BYTES)
    except OSError as error:
        log.warning("the end of %s is not kept: %s", path, error)
    try:
        os.truncate(path, 0)
    except OSError as error:
        log.error("%s cannot be emptied: %s", path, error)


def _copy_end(path: Path, kept: Path, start: int) -> None:
    kept.unlink(missing_ok=True)
    target = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with path.open("rb") as source, open(target, "wb") as file:
        source.seek(start)
        shutil.copyfileobj(source, file)
