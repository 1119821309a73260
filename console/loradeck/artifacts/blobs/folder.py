"""Blobs in a folder of the hub, which is the default.

FOLDER/ab/abcdef...         a blob, 0600, never overwritten
FOLDER/incoming/*.staging   content being received
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path

from loradeck.artifacts.blobs.store import CHUNK, KEY, Blobs, key, unknown
from loradeck.artifacts.errors import room_on
from loradeck.artifacts.staging import fsync_folder


class FolderBlobs(Blobs):
    """Blobs in a local folder, which several threads and processes may use."""

    def path(self, sha256: str) -> Path:
        """Path at which a blob lies or would lie. Raises BadArtifact `path_traversal`."""
        return self.scratch / key(sha256)

    def size(self, sha256: str) -> int:
        """See `Blobs.size`."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            raise unknown(sha256) from None

    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """See `Blobs.open`."""
        try:
            file = self.path(sha256).open("rb", buffering=0)
        except FileNotFoundError:
            raise unknown(sha256) from None
        return _read(file, start, os.fstat(file.fileno()).st_size if stop is None else stop)

    def delete(self, sha256s: Iterable[str]) -> None:
        """See `Blobs.delete`."""
        for sha256 in sha256s:
            self.path(sha256).unlink(missing_ok=True)

    def listed(self) -> Mapping[str, int]:
        """See `Blobs.listed`."""
        found = {}
        for path in self.scratch.glob("??/*"):
            if KEY.fullmatch(f"{path.parent.name}/{path.name}"):
                with suppress(FileNotFoundError):  # removed meanwhile
                    found[path.name] = path.stat().st_size
        return found

    def _here(self, sha256: str) -> Path | None:
        path = self.path(sha256)
        return path if path.exists() else None

    def _keep(self, path: Path, sha256: str) -> None:
        target = self.path(sha256)
        shelf = target.parent
        shelf.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileExistsError), room_on(shelf):  # equal content was received twice
            os.link(path, target)
        fsync_folder(shelf)
        fsync_folder(shelf.parent)


def _read(file: FileIO, start: int, stop: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while start < stop and (chunk := file.read(min(CHUNK, stop - start))):
            start += len(chunk)
            yield chunk
