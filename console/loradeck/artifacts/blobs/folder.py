"""Blobs in a folder of the hub, which is the default; the choice of a store, and copying from one to another.

FOLDER/ab/abcdef...         a blob, 0600, never overwritten
FOLDER/incoming/*.staging   content being received
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path

from loradeck.artifacts.blobs.store import CHUNK, KEY, Blobs, key, unknown
from loradeck.artifacts.errors import BadArtifact, room_on
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


log = logging.getLogger(__name__)


def open_blobs(url: str | None, folder: Path) -> Blobs:
    """The blobs of a hub: in an object store, or without a URL in a folder. The store is probed.

    One that does not answer is taken all the same, so that the hub can move pointers; it is probed before anything is
    written.

    `folder`: of the blobs, or for content on its way.

    Raises:
        BadArtifact: `store_lies`, `bad_store`.
        ModuleNotFoundError: obstore is not installed.
    """
    if url is None:
        return FolderBlobs(folder)
    from loradeck.artifacts.blobs.objects import ObjectBlobs, opened

    blobs = ObjectBlobs(opened(url), folder, probed=opened(url, retry_s=3))
    try:
        blobs.prove()
    except BadArtifact as bad:
        if bad.code != "store_unavailable":
            raise
        log.error("no file can be read or stored until the object store answers: %s", bad)
    return blobs


def copy(source: Blobs, target: Blobs) -> tuple[int, int]:
    """Copies the blobs that the target lacks, each verified. Returns their number and bytes.

    Raises: BadArtifact: `digest_mismatch`, a blob is damaged; `disk_full`, `store_unavailable`. What was copied stays.
    """
    there = target.listed()
    lacking = {sha256: size for sha256, size in source.listed().items() if there.get(sha256) != size}
    for sha256, size in lacking.items():
        with target.receive(sha256, size=size) as incoming:
            for chunk in source.open(sha256):
                incoming.write(chunk)
            incoming.keep()
    return len(lacking), sum(lacking.values())
