"""The agent's state folder: its paths, its locks, and who holds them.

A lock is an flock, so it ends with its holder whatever happens to it. Whoever holds the lock of a router or
an engine *is* that router or engine; a pid written in a file never is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loradeck_agent.host.errors import AgentError


@dataclass(frozen=True)
class StateFolder:
    """Paths below the configured `state`, as docs/architecture.md lists them."""

    root: Path

    @property
    def earlier_journal(self) -> Path:
        """The journal of an earlier version, from before the router's table was the one owner of cursor and pins."""
        return self.root / "journal.jsonl"

    @property
    def lock(self) -> Path:
        """Lock file that a running agent holds."""
        return self.root / "agent.lock"

    @property
    def status(self) -> Path:
        """The running agent's link, as it writes it for `loradeck-agent status`."""
        return self.root / "agent.json"

    @property
    def router(self) -> Path:
        """Folder of the router's table, lock, socket and log."""
        return self.root / "router"

    @property
    def router_socket(self) -> Path:
        """The router's control socket."""
        return self.router / "router.sock"

    @property
    def router_lock(self) -> Path:
        """Lock file that a running router holds."""
        return self.router / "router.lock"

    @property
    def router_log(self) -> Path:
        """What the router prints."""
        return self.router / "router.log"

    def engine(self, name: str) -> Path:
        """Folder of one engine, by its configured name."""
        return self.root / "engines" / name

    def engine_socket(self, name: str) -> Path:
        """Socket of an engine that is started here."""
        return self.engine(name) / "engine.sock"

    def engine_lock(self, name: str) -> Path:
        """Lock file that a running engine holds."""
        return self.engine(name) / "engine.lock"

    def engine_ready(self, name: str) -> Path:
        """The releases that the engine's present lifetime may be asked for."""
        return self.engine(name) / "ready.json"

    @property
    def measured(self) -> Path:
        """Measured durations of starts, fetches and loads."""
        return self.root / "measured.json"

    @property
    def digests(self) -> Path:
        """Digests of the files of bases, so that an unchanged one is not read again."""
        return self.root / "digests.json"

    @property
    def releases(self) -> Path:
        """Adapters on this node, by adapter digest."""
        return self.root / "releases"

    def release(self, adapter: str) -> Path:
        """Folder of an adapter's files, by adapter digest."""
        return self.releases / adapter

    @property
    def merged(self) -> Path:
        """Weights that were merged on this node, by base digest: each is the `base` of an engine."""
        return self.root / "merged"

    @property
    def canaries(self) -> Path:
        """Canary records known here, so that proof does not need the hub."""
        return self.root / "canaries"

    @property
    def inputs(self) -> Path:
        """Datasets and suites that jobs were given, by digest."""
        return self.root / "inputs"

    @property
    def jobs(self) -> Path:
        """Folders of the attempts at jobs."""
        return self.root / "jobs"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of train jobs, by job: they outlive an attempt."""
        return self.root / "checkpoints"

    def make(self) -> None:
        """Creates the folders, each 0700.

        Raises:
            AgentError: `state_unusable`, when one cannot be made or is no folder of ours.
        """
        for path in (self.root, self.router, self.root / "engines", self.releases, self.canaries, self.inputs):
            _private(path)
        _private(self.jobs)
        _private(self.merged)
        _private(self.checkpoints)


def _private(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise AgentError(
            "state_unusable",
            f"cannot use the state folder {path}",
            error.strerror or str(error),
            "correct `state` in the configuration, or the folder's owner",
        ) from error


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path` for the length of the block, with this process's pid in it.

    Raises:
        AgentError: `already_running`, when another process holds it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = holder_of(path)
            raise AgentError(
                "already_running",
                f"another {what} runs on this state folder",
                f"pid {holder}, behind {path}" if holder else str(path),
                "use that one, or end it with `loradeck-agent stop`",
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def holder_of(path: Path) -> int | None:
    """Pid of the process that holds the flock on `path`; None when nobody does.

    The kernel's own list of locks says who took it. A process that merely has the file open, or whose pid is
    written in it, does not count.
    """
    try:
        inode = path.stat().st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        # "3: FLOCK ADVISORY WRITE 812 fe:00:11280500 0 EOF"; waiters have "->" in the second column.
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            pid = int(fields[4])
            if pid > 0 and _has_open(pid, path):
                return pid
    return None


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has this very file open: inode numbers repeat across file systems."""
    wanted = path.stat()
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in names:
        try:
            found = os.stat(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def start_time(pid: int) -> int | None:
    """Kernel's start time of a process, clock ticks since boot; with the pid it names one process for good."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def fsync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes) -> None:
    """Replaces a file whole: staging name, fsync, rename, fsync of the folder. Mode 0600."""
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        staging.replace(path)
    except OSError:
        staging.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
