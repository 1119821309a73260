"""Staged files and folders: content gets its own name only once it is complete, verified and durable.

Content is written under a staging name, hashed on the way, fsynced, and renamed. A lock that dies with its process
distinguishes what is being staged from what a crash left behind.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from loradeck.artifacts.errors import BadArtifact, room_on
from loradeck.artifacts.hash_checks import check_digest, verify_folder
from loradeck.schemas.manifest import FileEntry

STAGING = ".staging"
"""Ending of staging names."""


class StagedFile:
    """One file being written. Used as a context manager, it is removed unless `finish` succeeded.

    Args:
        path: staging name; must not exist.
        sha256: SHA-256 (hex) that the content must have.
        size: bytes it must have; None if only the digest is known.
        limit: bytes it may have at most.

    Raises: BadArtifact: `too_large`: `size` is above `limit`; `disk_full`.
    """

    def __init__(self, path: Path, sha256: str, *, size: int | None = None, limit: int | None = None) -> None:
        self.path = path
        self.written = 0
        self._sha256 = sha256
        self._size = size
        self._limit = size if size is not None else limit
        if limit is not None and size is not None and size > limit:
            raise BadArtifact("too_large", "the content is larger than is allowed", f"{size} bytes, not {limit}")
        self._hash = hashlib.sha256()
        self._finished = False
        self._fd = _create(path)

    def write(self, chunk: bytes) -> None:
        """Appends a chunk. Raises: BadArtifact: `too_large`: more than the size or limit; `disk_full`."""
        self.written += len(chunk)
        if self._limit is not None and self.written > self._limit:
            raise BadArtifact("too_large", "the content is larger than announced or allowed", f"{self._limit} bytes")
        self._hash.update(chunk)
        self._put(chunk)

    def _put(self, chunk: bytes) -> None:
        """Appends to the file what is kept of the content."""
        with room_on(self.path):
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._fd, view) :]

    def finish(self, *, mode: int = 0o600) -> None:
        """Verifies size and digest and makes the file durable, still under its staging name, with these permissions.

        Raises: BadArtifact: `digest_mismatch`; `disk_full`.
        """
        if self._size is not None and self.written != self._size:
            raise BadArtifact(
                "digest_mismatch", "the content ended early", f"{self.written} of {self._size} bytes", "send it again"
            )
        check_digest(self._hash.hexdigest(), self._sha256)
        with room_on(self.path):
            os.fchmod(self._fd, mode)
            os.fsync(self._fd)
        self._finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        if not self._finished:
            self.path.unlink(missing_ok=True)


def _create(path: Path) -> int:
    while True:
        with room_on(path):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # a sweep was faster than the lock


def sweep(folder: Path) -> list[str]:
    """Removes staging files that a crash left in a folder and returns their names; files in use stay."""
    removed = []
    for path in sorted(folder.glob(f"*{STAGING}")):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its writer has just finished
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            remove(path)
            removed.append(path.name)
        finally:
            os.close(lock)
    return removed


def remove(path: Path) -> None:
    """Removes a file, or a folder even if it was made read-only."""
    if path.is_dir() and not path.is_symlink():
        for _, _, _, fd in os.fwalk(path):  # by descriptors: somebody else's folder may become a link meanwhile
            os.fchmod(fd, stat.S_IRWXU)
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def private_folder(folder: Path) -> None:
    """Creates a folder with mode 0700, and each missing parent likewise."""
    if not folder.is_dir():
        private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def replace_durably(path: Path, data: bytes, *, once: bool = False) -> None:
    """Replaces a file whole, mode 0600: it has the old content or the new one, also after a crash.

    `once`: a file that is there stays as it is, even one that another host has made this moment.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if once:
            with suppress(FileExistsError):
                path.hardlink_to(staged)
        else:
            staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Makes the names in a folder durable (renames, new and removed files)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Installation:
    """A folder being installed; see `installing`. `folder` is its staging path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, entry: FileEntry) -> StagedFile:
        """Begins one file; the caller writes it and ends it with `finish(mode=0o400)`.

        Raises: BadArtifact: `path_traversal`: its path leaves the folder.
        """
        path = self.folder / entry.path
        if not path.is_relative_to(self.folder) or ".." in path.parts:
            raise BadArtifact("path_traversal", "a file's path leaves its folder", repr(entry.path))
        private_folder(path.parent)
        return StagedFile(path, entry.sha256, size=entry.size)


@contextmanager
def installing(files: Sequence[FileEntry], folder: Path) -> Iterator[Installation]:
    """Installs exactly these files as `folder`, 0400 in folders of 0500: the caller writes them in the block, whose
    end puts them in place. An exception in the block leaves nothing behind.

    Raises: BadArtifact: `manifest_mismatch`: the block did not write exactly `files`; `disk_full`.
    """
    private_folder(folder.parent)
    sweep(folder.parent)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{STAGING}")
    with room_on(staging):
        staging.mkdir(mode=0o700)
    lock = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Installation(staging)
        verify_folder(files, staging)
        for inner, _, _ in os.walk(staging, topdown=False):
            fsync_folder(Path(inner))
            os.chmod(inner, 0o500)
        try:
            staging.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            verify_folder(files, folder)  # another process installed it first
        fsync_folder(folder.parent)
    finally:
        os.close(lock)
        if staging.exists():
            remove(staging)
