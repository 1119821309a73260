"""Installation of an artifact as a read-only folder on a node: complete and verified, or absent."""

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loradeck.artifacts.errors import BadArtifact, room_on
from loradeck.artifacts.hash_checks import verify_folder
from loradeck.artifacts.staging import STAGING, StagedFile, fsync_folder, private_folder, remove, sweep
from loradeck.schemas.manifest import FileEntry


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
