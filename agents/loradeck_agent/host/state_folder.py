"""The agent's state folder: its paths, its locks, and who holds them.

A lock is an flock, so it ends with its holder whatever happens to it. Whoever holds the lock of a router or
an engine *is* that router or engine; a pid written in a file never is.
"""

import errno
import fcntl
import functools
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.job_user import JobUser

FEEDBACK, FEEDBACK_SUFFIX = "feedback", ".feedback"
"""The folder below the router's, and the end of the names of its files, for feedback that the hub does not have yet."""

INPUTS, INPUTS_SUFFIX = "input-counts", ".inputs"
"""The folder below the router's, and the end of the names of its files, for counts of what is asked."""


class StateFolder:
    """Paths below the configured `state`, as docs/architecture.md lists them.

    `shared`: where the folders of jobs are instead, for other hosts to work in; None: below `state`, too.
    """

    def __init__(self, root: Path, shared: Path | None = None) -> None:
        self.root = root
        self._shared = shared or root
        self.lock = root / "agent.lock"
        """Lock file that a running agent holds."""
        self.status = root / "agent.json"
        """The running agent's link, as it writes it for `loradeck-agent status`."""
        self.router = root / "router"
        """Folder of the router's table, lock, socket and log."""
        self.router_socket = self.router / "router.sock"
        """The router's control socket."""
        self.router_lock = self.router / "router.lock"
        """Lock file that a running router holds."""
        self.router_drain_lock = self.router / "drain.lock"
        """Lock file that a router holds which has handed over and ends what it admitted."""
        self.router_listening = self.router / "listening.sock"
        """Where the router gives its listening sockets."""
        self.router_log = self.router / "router.log"
        """What the router prints."""
        self.ledger_rows = self.router / "ledger"
        """Files of rows for the answer ledger, as routers write them."""
        self.feedback = self.router / FEEDBACK
        """Feedback that routers took and the hub does not have yet."""
        self.input_counts = self.router / INPUTS
        """Counts of what is asked that the hub does not have yet."""
        self.ledger = root / "ledger"
        """Segments of the answer ledger that the hub does not have yet, and where their chain stands."""
        self.measured = root / "measured.json"
        """Measured durations of starts, fetches and loads."""
        self.digests = root / "digests.json"
        """Digests of the files of bases, so that an unchanged one is not read again."""
        self.releases = self._shared / "releases"
        """Adapters on this node, by adapter digest."""
        self.merged = self._shared / "merged"
        """Weights that were merged on this node, by base digest: each is the `base` of an engine."""
        self.canaries = root / "canaries"
        """Canary records known here, so that proof does not need the hub."""
        self.inputs = self._shared / "inputs"
        """Datasets and suites that jobs were given, by digest."""
        self.doors = root / "doors"
        """Sockets where executors ask engines."""
        self.jobs = self._shared / "jobs"
        """Folders of the attempts at jobs."""
        self.checkpoints = self._shared / "checkpoints"
        """Checkpoints of train jobs, by job: they outlive an attempt."""

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

    def door(self, attempt: str, engine: str) -> Path:
        """Names the socket where an attempt's executor asks one of its engines: paths of sockets have to be short."""
        return self.doors / hashlib.sha256(f"{attempt} {engine}".encode()).hexdigest()[:12]

    def release(self, adapter: str) -> Path:
        """Folder of an adapter's files, by adapter digest."""
        return self.releases / adapter

    def merged_here(self) -> frozenset[str]:
        """Digests of the merged weights that lie in this folder."""
        return frozenset(path.name for path in self.merged.iterdir() if path.is_dir())

    def make(self, user: JobUser | None = None) -> None:
        """Creates the folders, each 0700. The user of executors may pass those in which there is something for it.

        Raises: AgentError: `state_unusable`, when one cannot be made or is no folder of ours.
        """
        shared = (self._shared, self.doors, self.jobs, self.inputs, self.releases, self.merged, self.checkpoints)
        for path in (self.root, self.router, self.root / "engines", self.canaries, self.ledger, *shared):
            make_private(path, 0o010 if user is not None and path in shared else 0)
        if user is not None:
            for path in shared:
                user.may_pass(path)


def make_private(path: Path, group: int = 0) -> None:
    """Makes a folder its owner's alone, but for these bits of a group. Raises: AgentError: `state_unusable`."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077 & ~group:
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

    Raises: AgentError: `already_running`, when another process holds it.
    """
    fd = open_lock(path)
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
        with suppress(OSError):  # for people; who holds the lock is what the kernel says
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def open_lock(path: Path) -> int:
    """Opens a lock file, which is made if it is missing; only to read, where the disk is read-only."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def spare_address(lock: Path) -> tuple[str, int]:
    """Abstract address of the process that holds a lock file, for where the disk takes no socket, and the user that the
    process should run as.

    Such an address has no owner and no mode (unix(7)), so that either side has to look at who the other one is.
    """
    there = lock.stat()
    return f"\0loradeck/{there.st_dev:x}/{there.st_ino:x}", there.st_uid


def user_at(line: socket.socket) -> int:
    """The user of the process at the other end of a Unix socket, as the kernel knows it."""
    said = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # `struct ucred` of unix(7): pid, uid and gid
    return memoryview(said).cast("I")[1]


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
    """Tells whether a process has this very file open: inode numbers repeat across file systems."""
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


def reserve(file: int, offset: int, size: int) -> bool:
    """Takes `size` bytes of the disk for a file from `offset` on, without making it longer: fallocate(2).

    Returns False where the disk has not that much, or its file system knows no reserves.
    """
    keep_size = 1  # FALLOC_FL_KEEP_SIZE, which os.posix_fallocate cannot be told
    return bool(_fallocate()(file, keep_size, offset, size) == 0)


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int]:
    import ctypes  # a quarter of a megabyte, which the agent's own process does not need

    found = ctypes.CDLL(None).fallocate
    found.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return found


def write_durably(path: Path, data: bytes) -> None:
    """Replaces a file whole: staging name of this thread's, fsync, rename, fsync of the folder. Mode 0600."""
    staging = path.with_name(f".{path.name}.{threading.get_native_id()}")
    fd = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
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
