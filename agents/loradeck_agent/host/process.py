"""Settings of a process of Loradeck's: its log, its limit of open files, and its garbage collector.

Router and engines run for months, and a disk that their logs have filled refuses the router's table: then nothing can
be rolled back on this node. So their log files are trimmed.
"""

import asyncio
import gc
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


def allow_open_files() -> None:
    """Raises this process's limit to what the host allows it.

    A request under way costs a router two. At the limit it accepts nobody and reaches no engine, and its agent
    cannot make it go back to another release.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


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


@contextmanager
def paused() -> Iterator[None]:
    """Pauses the collector for the length of the block and leaves out for ever what the block made.

    Modules and weights stay as long as the process. To look through them for garbage again and again takes a fifth of
    the start of an executor: 1.4 of 7 s of a core.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def settle() -> None:
    """Leaves out for ever what there is now, and from here on looks for garbage less often than Python does by itself.

    For a process that answers thousands of requests a second: what they make is gone with them, and is not in cycles.
    """
    gc.set_threshold(20_000, 20, 100)
    gc.freeze()
