"""Blobs: files that the hub keeps under the SHA-256 of their content.

A store of blobs is a folder of the hub (`blobs.folder`) or an object store (`blobs.objects`). In both, a blob appears
under its name only when it is complete, verified and durable, lies at `ab/abcdef...`, and is never overwritten.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType

from loradeck.artifacts.errors import BadArtifact, room_on
from loradeck.artifacts.staging import STAGING, StagedFile, private_folder, sweep

CHUNK = 1 << 20
KEY = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})")
"""A blob's place in its store."""

SEALED_MARK = b"LDROWS1\n"
SEALED_HEAD = len(SEALED_MARK) + 32
"""How a blob begins in which another one lies sealed (`keyed`): with this mark and that one's digest, in bytes."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_READING = "reading."


class Blobs(ABC):
    """A content-addressed store of blobs. Several threads may use it. All calls but `signed` may take long.

    Every call raises BadArtifact `path_traversal` for a name that is not a digest, and `store_unavailable` where an
    object store does not answer.

    `scratch`: folder of this machine for content on its way; created with mode 0700 if it is missing.
    """

    stored: Blobs
    """The blobs as they lie in the store, rows sealed: what a copy of the store has to hold."""

    def __init__(self, scratch: Path) -> None:
        self.stored = self
        self.scratch = scratch
        self._incoming = scratch / "incoming"
        private_folder(self._incoming)
        sweep(self._incoming)

    def has(self, sha256: str) -> bool:
        """Tells whether the blob is in the store, and so complete and verified."""
        with unless_unknown():
            self.size(sha256)
            return True
        return False

    @abstractmethod
    def size(self, sha256: str) -> int:
        """Size of a blob in bytes. Raises: BadArtifact: `unknown_blob`."""

    @abstractmethod
    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yields a blob's bytes from `start` up to, not including, `stop` (None: the end), in chunks.

        Raises: BadArtifact: `unknown_blob`; from an object store also `digest_mismatch`, before the last chunk of a
        whole blob.
        """

    @abstractmethod
    def delete(self, sha256s: Iterable[str]) -> None:
        """Removes blobs at once. Those that are not there are passed over."""

    @abstractmethod
    def listed(self) -> Mapping[str, int]:
        """Lists all blobs, with their sizes in bytes."""

    @asynccontextmanager
    async def local(self, sha256s: Iterable[str]) -> AsyncIterator[Mapping[str, Path]]:
        """Paths of blobs on this machine, beside `scratch`, for as long as the block lasts. They are only to be read.

        What does not lie here as it is, as rows and what is in an object store, is copied, and removed at the end.

        Raises: BadArtifact: `unknown_blob`, `digest_mismatch`, `disk_full`.
        """
        folder = Path(tempfile.mkdtemp(prefix=_READING, dir=self.scratch))
        try:
            yield {one: await asyncio.to_thread(self._at_hand, one, folder) for one in dict.fromkeys(sha256s)}
        finally:
            await asyncio.to_thread(shutil.rmtree, folder)

    def signed(self, sha256: str) -> str | None:
        """A URL under which anybody may read this blob for some minutes; None where the store has no such URLs."""
        return None

    def sweep_copies(self) -> None:
        """Removes copies that a crash left. Only for who knows that no other process uses `scratch`."""
        for left in self.scratch.glob(f"{_READING}*"):
            shutil.rmtree(left)

    def _here(self, sha256: str) -> Path | None:
        """Returns where a blob lies on this machine as it is; None: it has to be copied."""
        return None

    def _at_hand(self, sha256: str, folder: Path) -> Path:
        """Returns where a blob lies on this machine, copied to a folder if need be."""
        if (here := self._here(sha256)) is not None:
            return here
        path = folder / sha256
        with room_on(path), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for chunk in self.open(sha256):
                file.write(chunk)
        return path

    def seal(  # noqa: B027 - where there are no keys
        self, version: str, tenant: str, sha256s: Iterable[str], shared: Collection[str] = ()
    ) -> None:
        """Keeps those of the blobs that are here under the key of a version of a dataset or suite of a tenant's.

        `shared`: those that another version has, which is not sealed yet: they stay in the clear as well until it is,
        or it would lose them where the key of this version is destroyed before.
        """

    def destroy(self, versions: Collection[str], tenants: Collection[str] = ()) -> None:  # noqa: B027 - likewise
        """Destroys the keys of versions and of tenants, and removes what nobody can read any more."""

    def receive(
        self, sha256: str, *, size: int | None = None, limit: int | None = None, rows: bool = False
    ) -> Incoming:
        """Begins to receive a blob chunk by chunk: `with ... as incoming: incoming.write(...); incoming.keep()`.

        Args:
            size: bytes that the content must have; None if unknown.
            limit: bytes that it may have at most.
            rows: it holds rows of somebody, and is sealed where there are keys.
        """
        key(sha256)
        path = self._incoming / f"{sha256}.{secrets.token_hex(4)}{STAGING}"
        return Incoming(path, sha256, lambda: self._keep(path, sha256), size=size, limit=limit)

    @abstractmethod
    def _keep(self, path: Path, sha256: str) -> None:
        """Gives a verified, durable file its place in the store."""


class Incoming(StagedFile):
    """A blob being received. Leaving its `with` block before `keep` drops it."""

    def __init__(
        self, path: Path, sha256: str, keep: Callable[[], None], *, size: int | None, limit: int | None
    ) -> None:
        self._keep = keep
        super().__init__(path, sha256, size=size, limit=limit)

    def keep(self) -> None:
        """Verifies the content, makes it durable and gives it its name.

        Raises: BadArtifact: as `StagedFile.finish`; `disk_full`, `store_unavailable`.
        """
        self.finish()
        self._keep()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.path.unlink(missing_ok=True)


def key(sha256: str) -> str:
    """A blob's place in its store. Raises: BadArtifact: `path_traversal`: this is not a digest."""
    if not _DIGEST.fullmatch(sha256):
        raise BadArtifact(
            "path_traversal", "not a digest", repr(sha256)[:80], "name a blob by 64 lower-case hexadecimal digits"
        )
    return f"{sha256[:2]}/{sha256}"


@contextmanager
def unless_unknown() -> Iterator[None]:
    """Leaves the block where it asks for a blob that is not in the store; what follows the block is for that case."""
    try:
        yield
    except BadArtifact as bad:
        if bad.code != "unknown_blob":
            raise


def unknown(sha256: str) -> BadArtifact:
    """The refusal of a blob that is not in the store."""
    fix = "upload it first; for rows that were here, start the hub with the keys it had (docs/data.md)"
    return BadArtifact("unknown_blob", "there is no such blob", sha256, fix)
