"""Blobs in an object store. Content is received and verified on this machine's disk before it is sent there.

Each request to the store is repeated for a while by obstore. Uploads in parts appear when they are complete; what a
hub that was killed had sent of one is invisible, and goes by the bucket's rule for incomplete uploads.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from loradeck.artifacts.blobs.object_store import PART, PARTS, answered, probe
from loradeck.artifacts.blobs.store import KEY, Blobs, key, unknown
from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.hash_checks import check_digest

SIGNED = timedelta(minutes=5)
"""How long a signed URL may be used."""


class ObjectBlobs(Blobs):
    """Blobs in a store of obstore's.

    Args:
        store: see `object_store.opened`.
        scratch: see `Blobs`. Only one process may use it.
        probed: the same store; the probe is made with this one, which should give up soon.
    """

    def __init__(self, store: Any, scratch: Path, *, probed: Any) -> None:
        super().__init__(scratch)
        self._store = store
        self._probed = probed
        self._proven = False
        self._proving = threading.Lock()

    def prove(self) -> None:
        """Probes the store unless that was done. Nothing is written before it has passed. Raises as `probe`."""
        with self._proving:
            if not self._proven:
                probe(self._probed)
                self._proven = True

    def size(self, sha256: str) -> int:
        """See `Blobs.size`."""
        try:
            with answered():
                return int(obstore.head(self._store, key(sha256))["size"])
        except FileNotFoundError:
            raise unknown(sha256) from None

    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """See `Blobs.open`."""
        size = self.size(sha256)
        return self._read(sha256, start, size if stop is None else min(stop, size), size)

    def _read(self, sha256: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        digest = hashlib.sha256() if (start, stop) == (0, size) else None
        while start < stop:
            end = min(start + PART, stop)
            try:
                with answered():
                    chunk = bytes(obstore.get_range(self._store, key(sha256), start=start, end=end))
            except FileNotFoundError:
                raise unknown(sha256) from None
            if len(chunk) != end - start:
                raise BadArtifact("digest_mismatch", "the object store sent too little", sha256)
            if digest is not None:
                digest.update(chunk)
                if end == stop:
                    check_digest(digest.hexdigest(), sha256)
            yield chunk
            start = end

    def delete(self, sha256s: Iterable[str]) -> None:
        """See `Blobs.delete`."""
        for sha256 in sha256s:
            with suppress(FileNotFoundError), answered():
                obstore.delete(self._store, key(sha256))

    def listed(self) -> Mapping[str, int]:
        """See `Blobs.listed`."""
        with answered():
            every = (one for page in obstore.list(self._store) for one in page)
            return {found[2]: one["size"] for one in every if (found := KEY.fullmatch(one["path"]))}

    def signed(self, sha256: str) -> str | None:
        """See `Blobs.signed`."""
        try:
            return str(obstore.sign(self._store, "GET", key(sha256), SIGNED))
        except (BaseError, ValueError):  # a store or an identity that cannot sign
            return None

    def _keep(self, path: Path, sha256: str) -> None:
        self.prove()
        size, place = path.stat().st_size, key(sha256)
        with answered():
            if size <= PART:
                with suppress(AlreadyExistsError):
                    obstore.put(self._store, place, path, mode="create", use_multipart=False)
            elif not self.has(sha256):
                obstore.put(self._store, place, path, use_multipart=True, chunk_size=PART, max_concurrency=PARTS)
        if (kept := self.size(sha256)) != size:
            self.delete([sha256])
            raise BadArtifact("store_lies", "the object store kept another size", f"{sha256}: {kept}, not {size}")
