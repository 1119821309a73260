"""Blobs of which rows lie sealed: their addresses stay the digests of what they say, and what lies there says nothing.

A sealed blob lies in the same store as the others, under the digest of its sealed bytes: it is copied, listed and
verified like any other by who has no keys.
"""

import asyncio
import hashlib
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from loradeck.artifacts.blobs.row_keys import ARRIVED, RowKeys, SealedBlob
from loradeck.artifacts.blobs.sealing import KEY, Sealer, unsealed
from loradeck.artifacts.blobs.store import Blobs, Incoming, key
from loradeck.artifacts.staging import STAGING


class KeyedBlobs(Blobs):
    """The blobs of a store, rows among them sealed by keys that lie elsewhere.

    Besides what `Blobs` says every call raises BadArtifact `key_unavailable`. Rows whose keys were destroyed are not
    there (`unknown_blob`), whatever lies in the store.
    """

    def __init__(self, stored: Blobs, keys: RowKeys) -> None:
        super().__init__(stored.scratch)
        self._stored, self._keys, self._turn = stored, keys, threading.RLock()
        self._sweep_copies()

    @property
    def stored(self) -> Blobs:
        """See `Blobs.stored`."""
        return self._stored

    def size(self, sha256: str) -> int:
        """See `Blobs.size`."""
        blob = self._sealed(sha256)
        return blob.size if blob is not None else self._stored.size(sha256)

    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """See `Blobs.open`. What was changed raises `digest_mismatch` before anything of its chunk is given out."""
        blob = self._sealed(sha256)
        if blob is None:
            return self._stored.open(sha256, start, stop)
        stop = blob.size if stop is None else min(stop, blob.size)
        read = partial(self._stored.open, blob.sealed)
        return unsealed(read, self._keys.key(sha256, blob), sha256, blob.size, start, stop)

    def delete(self, sha256s: Iterable[str]) -> None:
        """See `Blobs.delete`. That a blob was sealed stays known, so that older copies of it are removed elsewhere."""
        for sha256 in sha256s:
            with self._turn:
                if (blob := self._keys.blob(sha256)) is not None:
                    self._keys.keep(sha256, blob.model_copy(update={"keys": {}}))
                    self._stored.delete([blob.sealed])
                self._stored.delete([sha256])

    def listed(self) -> Mapping[str, int]:
        """See `Blobs.listed`."""
        found = dict(self._stored.listed())
        known = list(self._keys.blobs())
        here = {sha: blob.size for sha, blob in known if blob.sealed in found and self._keys.alive(blob)}
        for _, blob in known:
            found.pop(blob.sealed, None)
        return found | here

    @asynccontextmanager
    async def local(self, sha256s: Iterable[str]) -> AsyncIterator[Mapping[str, Path]]:
        """See `Blobs.local`: of rows, copies that are removed at the end of the block."""
        wanted = list(sha256s)
        sealed = await asyncio.to_thread(lambda: {sha256 for sha256 in wanted if self._sealed(sha256) is not None})
        async with self._copies(sealed) as copies, self._stored.local(s for s in wanted if s not in sealed) as others:
            yield {**copies, **others}

    def signed(self, sha256: str) -> str | None:
        """See `Blobs.signed`: none of rows, which only the hub can read."""
        return self._stored.signed(sha256) if self._sealed(sha256) is None else None

    def receive(
        self, sha256: str, *, size: int | None = None, limit: int | None = None, rows: bool = False
    ) -> Incoming:
        """See `Blobs.receive`."""
        if not rows:
            return self._stored.receive(sha256, size=size, limit=limit)
        key(sha256)
        path = self._incoming / f"{sha256}.{secrets.token_hex(4)}{STAGING}"
        data_key = os.urandom(KEY)
        keep = partial(self._keep_sealed, path, sha256, data_key, ARRIVED, ARRIVED)
        return _Sealing(path, sha256, data_key, keep, size=size, limit=limit)

    def seal(self, version: str, tenant: str, sha256s: Iterable[str]) -> None:
        """See `Blobs.seal`."""
        for sha256 in sha256s:
            with self._turn:
                blob = self._sealed(sha256)
                if blob is None:
                    self._seal(version, tenant, sha256)
                elif version not in self._keys.alive(blob):
                    made = self._keys.wrap(version, tenant, sha256, self._keys.key(sha256, blob))
                    keys = {name: sealed for name, sealed in blob.keys.items() if name != ARRIVED}
                    self._keys.keep(sha256, blob.model_copy(update={"keys": {**keys, version: made}}))
                if self._stored.has(sha256):
                    self._stored.delete([sha256])

    def destroy(self, versions: Collection[str], tenants: Collection[str] = ()) -> None:
        """See `Blobs.destroy`."""
        with self._turn:
            self._keys.destroy(versions)
            for tenant in tenants:
                self._keys.destroy_tenant(tenant)
            for _, blob in list(self._keys.blobs()):
                if blob.keys and not self._keys.alive(blob):
                    self._stored.delete([blob.sealed])

    def sealed(self) -> Collection[str]:
        """See `Blobs.sealed`."""
        return [sha256 for sha256, _ in self._keys.blobs()]

    def _sealed(self, sha256: str) -> SealedBlob | None:
        """A blob that lies here sealed, and whose key was not destroyed."""
        key(sha256)
        blob = self._keys.blob(sha256)
        return blob if blob is not None and self._keys.alive(blob) and self._stored.has(blob.sealed) else None

    def _seal(self, version: str, tenant: str, sha256: str) -> None:
        """Seals a blob that lies here as it is."""
        path, data_key = self._incoming / f"{sha256}.{secrets.token_hex(4)}{STAGING}", os.urandom(KEY)
        keep = partial(self._keep_sealed, path, sha256, data_key, version, tenant)
        with _Sealing(path, sha256, data_key, keep, size=self._stored.size(sha256)) as incoming:
            for piece in self._stored.open(sha256):
                incoming.write(piece)
            incoming.keep()

    def _keep_sealed(
        self, path: Path, sha256: str, data_key: bytes, version: str, tenant: str, sealed: str, size: int
    ) -> None:
        """Gives a verified, sealed file its place; the key is durable first. An equal one that is here stays."""
        with self._turn:
            if self._sealed(sha256) is None:
                keys = {version: self._keys.wrap(version, tenant, sha256, data_key)}
                self._keys.keep(sha256, SealedBlob(sealed=sealed, size=size, keys=keys))
                self._stored._keep(path, sealed)

    def _keep(self, path: Path, sha256: str) -> None:
        self._stored._keep(path, sha256)


class _Sealing(Incoming):
    """A blob that is sealed while it is received: what it says never lies on the disk."""

    def __init__(
        self,
        path: Path,
        sha256: str,
        data_key: bytes,
        keep: Callable[[str, int], None],
        *,
        size: int | None = None,
        limit: int | None = None,
    ) -> None:
        self._sealer, self._lies = Sealer(data_key, sha256), hashlib.sha256()
        super().__init__(path, sha256, lambda: keep(self._lies.hexdigest(), self.written), size=size, limit=limit)

    def _put(self, chunk: bytes) -> None:
        self._put_sealed(self._sealer.add(chunk))

    def _put_sealed(self, piece: bytes) -> None:
        self._lies.update(piece)
        super()._put(piece)

    def keep(self) -> None:
        """See `Incoming.keep`."""
        self._put_sealed(self._sealer.end())
        super().keep()
