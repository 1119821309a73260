"""An artifact's files as a read-only folder on a node: there completely and verified, or not at all."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loradeck.artifacts.errors import BadArtifact, room_on
from loradeck.artifacts.manifests import verify_folder
from loradeck.artifacts.staging import STAGING, StagedFile, fsync_folder, private_folder, remove, sweep
from loradeck.schemas.manifest import FileEntry

ReadBlob = Callable[[FileEntry], Iterable[bytes]]
"""The content of one file, in chunks."""


def install(files: Sequence[FileEntry], read: ReadBlob, folder: Path) -> None:
    """Make `folder` hold exactly these files, 0400 in folders of 0500. What is there already is only verified.

    Raises:
        BadArtifact: `digest_mismatch`, `too_large`, `disk_full`: nothing was installed. `manifest_mismatch`,
            `path_traversal`: a folder that was there before is not what it should be; it is left as it is.
    """
    if folder.exists():
        verify_folder(files, folder)
        return
    with installing(files, folder) as staging:
        for entry in files:
            with staging.file(entry) as file:
                for chunk in read(entry):
                    file.write(chunk)
                file.finish(mode=0o400)


class Installation:
    """A folder on its way; see `installing`. `folder` is its staging name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, entry: FileEntry) -> StagedFile:
        """A file to be written, then ended by `finish(mode=0o400)`.

        Raises:
            BadArtifact: `path_traversal`, its path leaves the folder.
        """
        path = self.folder / entry.path
        if not path.is_relative_to(self.folder) or ".." in path.parts:
            raise BadArtifact("path_traversal", "a file's path leaves its folder", repr(entry.path))
        private_folder(path.parent)
        return StagedFile(path, entry.sha256, size=entry.size)


@contextmanager
def installing(files: Sequence[FileEntry], folder: Path) -> Iterator[Installation]:
    """For callers that cannot hand out a `ReadBlob`: write every file in the block; its end puts them in place.

    An exception in the block leaves nothing behind.

    Raises:
        BadArtifact: `manifest_mismatch`, the block did not write exactly `files`.
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
            verify_folder(files, folder)  # somebody else was faster
        fsync_folder(folder.parent)
    finally:
        os.close(lock)
        if staging.exists():
            remove(staging)
