"""The hub's blob store: files named after the SHA-256 of their content, in a local directory.

    FOLDER/ab/abcdef...         a blob, 0600, never overwritten
    FOLDER/incoming/*.staging   content being received

A blob appears under its name only when it is complete, verified and durable.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType

from loradeck.artifacts.errors import BadArtifact, room_on
from loradeck.artifacts.staging import STAGING, StagedFile, fsync_folder, private_folder, sweep

CHUNK = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """A content-addressed blob store. Several threads and processes may use one folder.

    Args:
        folder: created with mode 0700 if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / "incoming"
        private_folder(self._incoming)
        sweep(self._incoming)

    def path(self, sha256: str) -> Path:
        """Path at which a blob lies or would lie.

        Raises:
            BadArtifact: `path_traversal`: `sha256` is not a digest.
        """
        if not _DIGEST.fullmatch(sha256):
            raise BadArtifact(
                "path_traversal", "not a digest", repr(sha256)[:80], "name a blob by 64 lower-case hexadecimal digits"
            )
        return self.folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether the blob is in the store, and so complete and verified.

        Raises:
            BadArtifact: `path_traversal`: `sha256` is not a digest.
        """
        return self.path(sha256).is_file()

    def size(self, sha256: str) -> int:
        """Size of a blob in bytes.

        Raises:
            BadArtifact: `unknown_blob`.
        """
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            raise _unknown(sha256) from None

    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yields a blob's bytes from `start` up to, not including, `stop` (None: the end), in chunks.

        Raises:
            BadArtifact: `unknown_blob`.
        """
        try:
            file = self.path(sha256).open("rb", buffering=0)
        except FileNotFoundError:
            raise _unknown(sha256) from None
        return _read(file, start, os.fstat(file.fileno()).st_size if stop is None else stop)

    def receive(self, sha256: str, *, size: int | None = None, limit: int | None = None) -> Incoming:
        """Begins to receive a blob chunk by chunk: `with ... as incoming: incoming.write(...); incoming.keep()`.

        Args:
            size: bytes that the content must have; None if unknown.
            limit: bytes that it may have at most.
        """
        return Incoming(self, sha256, size=size, limit=limit)


class Incoming(StagedFile):
    """A blob being received. Leaving its `with` block before `keep` drops it."""

    def __init__(self, blobs: Blobs, sha256: str, *, size: int | None, limit: int | None) -> None:
        self._target = blobs.path(sha256)
        staging = self._target.parent.parent / "incoming" / f"{sha256}.{secrets.token_hex(4)}{STAGING}"
        super().__init__(staging, sha256, size=size, limit=limit)

    def keep(self) -> None:
        """Verifies the content, makes it durable and gives it its name.

        Raises:
            BadArtifact: as `StagedFile.finish`; `disk_full`.
        """
        self.finish()
        shelf = self._target.parent
        shelf.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileExistsError), room_on(shelf):  # equal content was received twice
            os.link(self.path, self._target)
        fsync_folder(shelf)
        fsync_folder(shelf.parent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.path.unlink(missing_ok=True)


def _read(file: FileIO, start: int, stop: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while start < stop and (chunk := file.read(min(CHUNK, stop - start))):
            start += len(chunk)
            yield chunk


def _unknown(sha256: str) -> BadArtifact:
    return BadArtifact("unknown_blob", "there is no such blob", sha256, "upload it first")
