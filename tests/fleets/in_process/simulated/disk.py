"""Simulated disks: files with a page cache, of which a power cut keeps what was synced and a part of the rest.

`System` stands in for the modules `os` and `fcntl`, `SimPath` for `pathlib.Path`; both act on the disk of the process
that calls them.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

from tests.fleets.in_process.simulated.event_loop import Died, Process, Scheduler, current


@dataclass(eq=False)
class Inode:
    """A file: `data` as every process sees it, `synced` as a power cut leaves it."""

    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    mtime_ns: int = 0
    locked_by: Process | None = None


@dataclass(eq=False)
class Open:
    """An open file of a process."""

    inode: Inode | None
    path: str
    at: int = 0
    append: bool = False


class Disk:
    """The disk of one host. `full` and `failing` make writes and syncs raise what a real one does."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.name = name
        self.files: dict[str, Inode] = {}
        self.durable: dict[str, Inode] = {}
        self.full = False
        self.failing = False
        self.read_only = False
        self.dies_at_write: tuple[str, int] | None = None
        """(name of a process, syncs): it is killed at that sync, before or after the disk has done it."""
        self._scheduler = scheduler

    # ---- faults --------------------------------------------------------------------------------------------

    def power_cut(self) -> None:
        """Drops what was not synced, except that a torn part of it may have reached the disk."""
        draw = self._scheduler.random
        kept = dict(self.durable)
        for path, inode in self.files.items():
            if path not in kept and draw.random() < 0.5:
                kept[path] = inode  # a name that was never synced may be there all the same
        for inode in {**dict.fromkeys(self.files.values()), **dict.fromkeys(kept.values())}:
            if bytes(inode.data) != inode.synced:
                whole = bytes(inode.data)
                if whole.startswith(inode.synced):
                    whole = whole[: draw.randint(len(inode.synced), len(whole))]
                else:
                    whole = inode.synced
                inode.data, inode.synced = bytearray(whole), whole
            inode.locked_by = None
        self.files, self.durable = kept, dict(kept)

    def copy(self) -> dict[str, bytes]:
        """The contents of all files, as a backup has them."""
        return {path: bytes(inode.data) for path, inode in self.files.items()}

    def restore(self, files: dict[str, bytes]) -> None:
        """Puts a backup in place of everything."""
        now = int(self._wall() * 1e9)
        self.files = {path: Inode(bytearray(data), data, now) for path, data in files.items()}
        self.durable = dict(self.files)

    def _wall(self) -> float:
        process = current()
        return process.wall() if process is not None else self._scheduler.now

    # ---- calls ---------------------------------------------------------------------------------------------

    def may_write(self) -> None:
        """Raises OSError where the disk takes no more data."""
        if self.read_only:
            raise OSError(errno.EROFS, "Read-only file system")
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, file: Open, data: bytes, at: int | None = None) -> int:
        """Writes to the page cache."""
        self.may_write()
        inode = file.inode
        assert inode is not None
        offset = at if at is not None else len(inode.data) if file.append else file.at
        inode.data[offset : offset + len(data)] = data
        file.at = offset + len(data)
        inode.mtime_ns = int(self._wall() * 1e9)
        return len(data)

    def sync(self, file: Open) -> None:
        """Makes a file durable, or the names in a folder."""
        process = current()
        dying = self.dies_at_write
        if dying is not None and process is not None and process.name == dying[0]:
            self.dies_at_write = None
            if dying[1]:
                self._sync(file)
            process.kill("at a sync, " + ("after" if dying[1] else "before") + " the disk had done it")
            raise Died
        if self.read_only and (file.inode is None or bytes(file.inode.data) == file.inode.synced):
            return
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        self._sync(file)

    def _sync(self, file: Open) -> None:
        if file.inode is not None:
            file.inode.synced = bytes(file.inode.data)
            for path, inode in self.files.items():
                if inode is file.inode and path not in self.durable:
                    self.durable[path] = inode  # as ext4 does for a new file
            return
        folder = file.path.rstrip("/") + "/"
        for path in [p for p in self.durable if p.startswith(folder) and p not in self.files]:
            del self.durable[path]
        for path, inode in self.files.items():
            if path.startswith(folder):
                self.durable[path] = inode

    def rename(self, before: str, after: str) -> None:
        """Renames in the page cache; durable once the folder was synced."""
        self.may_write_names()
        if before not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file", before)
        self.files[after] = self.files.pop(before)

    def may_write_names(self) -> None:
        """Raises OSError where no name can be changed."""
        if self.read_only:
            raise OSError(errno.EROFS, "Read-only file system")


def here() -> tuple[Process, Disk]:
    """The process that calls, and its disk."""
    process = current()
    assert process is not None, "a file was used outside a process"
    if not process.alive:
        raise Died
    return process, process.host.disk


class System:
    """Stands in for the modules `os` and `fcntl`. What it does not have is the real one's."""

    LOCK_EX, LOCK_NB, LOCK_UN = 2, 4, 8

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        process, disk = here()
        name = str(path)
        inode = disk.files.get(name)
        if flags & os.O_DIRECTORY:
            return self._fd(process, Open(None, name))
        if inode is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "No such file", name)
            disk.may_write()
            inode = disk.files[name] = Inode(mtime_ns=int(process.wall() * 1e9))
        if flags & os.O_TRUNC:
            inode.data.clear()
        return self._fd(process, Open(inode, name, append=bool(flags & os.O_APPEND)))

    def _fd(self, process: Process, what: Any) -> int:
        fd = len(process.fds) + 3
        while fd in process.fds:
            fd += 1
        process.fds[fd] = what
        return fd

    def close(self, fd: int) -> None:
        process, _ = here()
        file = process.fds.pop(fd)
        if isinstance(file, Open) and file.inode is not None and file.inode.locked_by is process:
            file.inode.locked_by = None

    def write(self, fd: int, data: bytes) -> int:
        process, disk = here()
        return disk.write(process.fds[fd], bytes(data))

    def pwrite(self, fd: int, data: bytes, at: int) -> int:
        process, disk = here()
        return disk.write(process.fds[fd], bytes(data), at)

    def ftruncate(self, fd: int, size: int) -> None:
        process, _ = here()
        del process.fds[fd].inode.data[size:]

    def fsync(self, fd: int) -> None:
        process, disk = here()
        disk.sync(process.fds[fd])

    fdatasync = fsync

    def fstat(self, fd: int) -> SimpleNamespace:
        process, _ = here()
        return _stat(process.fds[fd].inode)

    def rename(self, before: Any, after: Any) -> None:
        here()[1].rename(str(before), str(after))

    replace = rename

    def link(self, before: Any, after: Any) -> None:
        """Another name of a socket."""
        process, disk = here()
        disk.may_write_names()
        servers = process.host.servers
        if str(before) not in servers:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(before))
        servers[str(after)] = servers[str(before)]

    def utime(self, target: Any, times: Any = None, *, ns: tuple[int, int] | None = None) -> None:
        process, disk = here()
        disk.may_write_names()
        inode = process.fds[target].inode if isinstance(target, int) else disk.files.get(str(target))
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(target))
        inode.mtime_ns = ns[1] if ns is not None else int(process.wall() * 1e9)

    def getpid(self) -> int:
        return here()[0].pid

    def flock(self, fd: int, how: int) -> None:
        process, _ = here()
        inode = process.fds[fd].inode
        holder = inode.locked_by
        if holder is not None and holder is not process and holder.alive:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        inode.locked_by = process

    def pidfd_open(self, pid: int) -> int:
        process, _ = here()
        found = process.scheduler.processes[pid - 100]
        if not found.alive:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        return self._fd(process, found)

    def pidfd_send_signal(self, fd: int, number: int) -> None:
        """Ends the process behind a pidfd, whichever the signal."""
        here()[0].fds[fd].kill(f"signal {number}")

    def open_file(self, fd: int, mode: str = "r") -> _Reader:
        """The builtin `open` on a descriptor, for reading."""
        return _Reader(fd)


SYSTEM = System()


class _Reader:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *error: object) -> None:
        SYSTEM.close(self._fd)

    def read(self) -> bytes:
        return bytes(here()[0].fds[self._fd].inode.data)


def _stat(inode: Inode | None) -> SimpleNamespace:
    if inode is None:
        return SimpleNamespace(st_size=0, st_mode=stat_module.S_IFDIR | 0o700, st_mtime_ns=0, st_ino=0)
    return SimpleNamespace(
        st_size=len(inode.data), st_mode=stat_module.S_IFREG | 0o600, st_mtime_ns=inode.mtime_ns, st_ino=id(inode)
    )


def holder_of(path: Any) -> int | None:
    """Pid of the process that holds the lock on a file; None: nobody does."""
    inode = here()[1].files.get(str(path))
    holder = inode.locked_by if inode is not None else None
    return holder.pid if holder is not None and holder.alive else None


class SimPath(PurePosixPath):
    """A path on the disk of the process that uses it. Folders are there as soon as they are named."""

    __slots__ = ()

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None: ...

    def chmod(self, mode: int) -> None: ...

    def stat(self) -> SimpleNamespace:
        return _stat(here()[1].files.get(str(self)))

    def resolve(self) -> SimPath:
        return self

    def _inode(self) -> Inode:
        inode = here()[1].files.get(str(self))
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(self))
        return inode

    def exists(self) -> bool:
        return str(self) in here()[1].files

    def read_bytes(self) -> bytes:
        return bytes(self._inode().data)

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_text(self, text: str) -> int:
        process, disk = here()
        disk.may_write()
        data = text.encode()
        disk.files[str(self)] = Inode(bytearray(data), b"", int(process.wall() * 1e9))
        return len(data)

    def rename(self, target: Any) -> None:
        here()[1].rename(str(self), str(target))

    replace = rename  # type: ignore[assignment]

    def unlink(self, missing_ok: bool = False) -> None:
        here()[1].files.pop(str(self), None)

    def iterdir(self) -> list[SimPath]:
        folder = str(self) + "/"
        return [SimPath(path) for path in here()[1].files if path.startswith(folder)]

    def glob(self, pattern: str) -> list[SimPath]:
        return [path for path in self.iterdir() if path.match(pattern)]
