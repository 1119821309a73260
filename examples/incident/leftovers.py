"""Nothing of a fleet is left behind: its processes and sockets are swept when whoever started it ends or is killed.

Engines and routers outlive their agent, as they should on a GPU host. `guard` starts a small process that waits for
the end of its starter, and sweeps the fleet's folder if that end came without notice (kill -9, out of memory).

    python examples/incident/leftovers.py FOLDER [--remove]
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

DONE = b"done"
"""What the guarding process reads when there is nothing for it to do."""

LOCK = "fleet.lock"
SWEEP_S = 10.0

EMPTY_LOOKS = 2
"""Looks in a row that find no process, after which none is left."""


class FolderInUse(Exception):
    """Another process runs a fleet in this folder."""


@contextlib.contextmanager
def guard(folder: Path, *, remove: bool = False) -> Iterator[None]:
    """Holds the folder for the length of the block, and has it swept if this process does not reach the block's end.

    Args:
        folder: where everything that is started keeps its files. It is named in the arguments of each process.
        remove: whether the folder is removed with the sweep.

    Raises:
        FolderInUse: another process holds it, or is still sweeping it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(f"another fleet runs in {folder}, or is just being stopped") from None
        command = [sys.executable, str(Path(__file__).resolve()), str(folder), *(["--remove"] if remove else [])]
        # It shares the lock, so that nobody starts in this folder before it has been swept.
        watcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[lock], start_new_session=True
        )
        try:
            yield
        finally:
            # Whatever ended the block: if this is cut short as well, the pipe closes and the watcher sweeps.
            sweep(folder)
            with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                watcher.communicate(DONE, timeout=SWEEP_S)
    finally:
        os.close(lock)


def processes(folder: Path) -> dict[int, str]:
    """pid -> command of this environment's processes that name the folder, or something in it, in their arguments."""
    place = str(folder)
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        pid = int(path.parent.name)
        if pid == os.getpid() or Path(argv[0]).parent != Path(sys.executable).parent or __file__ in argv:
            continue
        if any(argument == place or f"{place}/" in argument for argument in argv):
            found[pid] = " ".join(argv).strip()
    return found


def sweep(folder: Path) -> list[str]:
    """Kills what still runs in the folder and removes its sockets. Returns the commands that it sent SIGKILL."""
    killed: dict[int, str] = {}
    deadline, empty = time.monotonic() + SWEEP_S, 0
    # An agent may have started one more while it was looked at, which has no arguments of its own before it runs its
    # program, and so is not found by the next look.
    while time.monotonic() < deadline:
        left = processes(folder)
        empty = 0 if left else empty + 1
        if empty == EMPTY_LOOKS:
            break
        killed |= left
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for path in folder.rglob("*"):
        if path.is_socket():
            path.unlink(missing_ok=True)
    return list(killed.values())


def main() -> None:
    """Waits for the end of the process at the other side of stdin; sweeps the folder unless it ended in order."""
    folder = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() == DONE:
        return
    sweep(folder)
    if "--remove" in sys.argv[2:]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
