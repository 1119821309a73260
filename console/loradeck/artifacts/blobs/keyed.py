"""Blobs of which rows lie sealed: their addresses stay the digests of what they say, and what lies there says nothing.

A sealed blob lies in the same store as the others, under the digest of its sealed bytes: it is copied, listed and
verified like any other by who has no keys. Its form is libsodium's secretstream (XChaCha20-Poly1305), chunk by chunk,
under a key for each blob:

    LDROWS1  SHA-256 of the content  header  chunk ...

No chunk can be changed, moved, left out or taken to another blob, and the last one says that it is the last.
"""

import hashlib
import os
import secrets
import threading
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from pathlib import Path

from nacl.bindings import crypto_secretstream as stream
from nacl.exceptions import CryptoError

from loradeck.artifacts.blobs.row_keys import ARRIVED, KEY, RowKeys, SealedBlob
from loradeck.artifacts.blobs.store import (
    CHUNK,
    SEALED_HEAD,
    SEALED_MARK,
    Blobs,
    Incoming,
    key,
    unknown,
    unless_unknown,
)
from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.staging import STAGING


class KeyedBlobs(Blobs):
    """The blobs of a store, rows among them sealed by keys that lie elsewhere.

    Besides what `Blobs` says every call raises BadArtifact `key_unavailable`. Rows whose keys were destroyed are not
    there (`unknown_blob`), whatever lies in the store.
    """

    def __init__(self, stored: Blobs, keys: RowKeys) -> None:
        super().__init__(stored.scratch)
        self.stored, self.keys, self.turn = stored, keys, threading.RLock()

    def size(self, sha256: str) -> int:
        """See `Blobs.size`."""
        with unless_unknown():
            return self.stored.size(sha256)
        if (blob := self.sealed(sha256)) is not None:
            return blob.size
        raise unknown(sha256)

    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """See `Blobs.open`. What was changed raises `digest_mismatch` before anything of its chunk is given out."""
        with unless_unknown():  # it lies here as it is, and no key is asked for
            return self.stored.open(sha256, start, stop)
        if (blob := self._readable(sha256)) is not None:
            with unless_unknown():
                lies, end = self.stored.open(blob.sealed, SEALED_HEAD), blob.size if stop is None else stop
                return unsealed(lies, self.keys.key(sha256, blob), sha256, start, min(end, blob.size))
        raise unknown(sha256)

    def delete(self, sha256s: Iterable[str]) -> None:
        """See `Blobs.delete`. That a blob was sealed stays known, so that older copies of it are removed elsewhere."""
        for sha256 in sha256s:
            with self.turn:
                if (blob := self.keys.blob(sha256)) is not None:
                    self.keys.keep(sha256, blob.model_copy(update={"keys": {}}))
                    self.stored.delete([blob.sealed])
                self.stored.delete([sha256])

    def listed(self) -> Mapping[str, int]:
        """See `Blobs.listed`."""
        found, here = dict(self.stored.listed()), {}
        for sha256, blob in self.keys.blobs():
            if found.pop(blob.sealed, None) is not None and self.keys.alive(blob):
                here[sha256] = blob.size
        return found | here

    def signed(self, sha256: str) -> str | None:
        """See `Blobs.signed`: none of rows, which only the hub can read."""
        return self.stored.signed(sha256) if self.stored.has(sha256) else None

    def receive(
        self, sha256: str, *, size: int | None = None, limit: int | None = None, rows: bool = False
    ) -> Incoming:
        """See `Blobs.receive`. What is sealed already is sealed again, whoever sends it and however."""
        key(sha256)
        if not rows and ((blob := self.keys.blob(sha256)) is None or not blob.keys):
            return self.stored.receive(sha256, size=size, limit=limit)
        return _Sealing(self, sha256, ARRIVED, ARRIVED, size=size, limit=limit)

    def seal(self, version: str, tenant: str, sha256s: Iterable[str], shared: Collection[str] = ()) -> None:
        """See `Blobs.seal`."""
        for sha256 in sha256s:
            with self.turn:
                blob = self.sealed(sha256)
                if blob is None and self.stored.has(sha256):
                    with _Sealing(self, sha256, version, tenant, size=self.stored.size(sha256)) as incoming:
                        for piece in self.stored.open(sha256):
                            incoming.write(piece)
                        incoming.keep()
                elif blob is not None and version not in self.keys.alive(blob):
                    made = self.keys.wrap(version, tenant, self.keys.key(sha256, blob))
                    newest = self.keys.blob(sha256) or blob  # another hub may have been faster
                    keys = {name: sealed for name, sealed in newest.keys.items() if name != ARRIVED}
                    self.keys.keep(sha256, newest.model_copy(update={"keys": {**keys, version: made}}))
                if sha256 not in shared and self.stored.has(sha256):
                    self.stored.delete([sha256])

    def drop_arrived(self, before_s: float, named: Container[str]) -> int:
        """Removes rows that came before a time (seconds since 1970), and that no document names; says how many."""
        with self.turn:
            gone = [sha256 for sha256 in self.keys.arrived(before_s) if sha256 not in named]
            self.delete(gone)
        return len(gone)

    def destroy(self, versions: Collection[str], tenants: Collection[str] = ()) -> None:
        """See `Blobs.destroy`."""
        with self.turn:
            self.keys.destroy(versions, tenants)
            self.stored.delete([blob.sealed for _, blob in self.keys.blobs() if self.keys.is_lost(blob)])

    def sealed(self, sha256: str) -> SealedBlob | None:
        """Finds the record of a blob that lies here sealed, and whose key was not destroyed."""
        blob = self._readable(sha256)
        return blob if blob is not None and self.stored.has(blob.sealed) else None

    def _readable(self, sha256: str) -> SealedBlob | None:
        """Finds the record of a blob that was sealed, and whose key was not destroyed."""
        key(sha256)
        blob = self.keys.blob(sha256)
        return blob if blob is not None and self.keys.alive(blob) else None

    def _here(self, sha256: str) -> Path | None:
        return self.stored._here(sha256)

    def _keep(self, path: Path, sha256: str) -> None:
        self.stored._keep(path, sha256)


class _Sealing(Incoming):
    """A blob that is sealed while it is received, under the key of a version: what it says never lies on the disk."""

    def __init__(
        self, blobs: KeyedBlobs, sha256: str, version: str, tenant: str, *, size: int | None, limit: int | None = None
    ) -> None:
        self._blobs, self._version = blobs, (version, tenant)
        self._data_key, self._lies = os.urandom(KEY), hashlib.sha256()
        self._sealer = Sealer(self._data_key, sha256)
        path = blobs._incoming / f"{sha256}.{secrets.token_hex(4)}{STAGING}"
        super().__init__(path, sha256, self._keep_sealed, size=size, limit=limit)

    def _put(self, chunk: bytes, *, last: bool = False) -> None:
        sealed = self._sealer.add(chunk, last=last)
        self._lies.update(sealed)
        super()._put(sealed)

    def keep(self) -> None:
        """See `Incoming.keep`. The key is durable before the file has its place. An equal blob that is here stays."""
        self._put(b"", last=True)
        super().keep()

    def _keep_sealed(self) -> None:
        with self._blobs.turn:
            if self._blobs.sealed(self._sha256) is not None:
                self._blobs.keys.came_again(self._sha256)
            else:
                keys = {self._version[0]: self._blobs.keys.wrap(*self._version, self._data_key)}
                blob = SealedBlob(sealed=self._lies.hexdigest(), size=self.written, keys=keys)
                self._blobs.keys.keep(self._sha256, blob)
                self._blobs._keep(self.path, blob.sealed)


_HEADER = stream.crypto_secretstream_xchacha20poly1305_HEADERBYTES
_MORE = stream.crypto_secretstream_xchacha20poly1305_ABYTES
_LAST = stream.crypto_secretstream_xchacha20poly1305_TAG_FINAL


class Sealer:
    """Seals one blob, piece by piece. `key` must be a new one."""

    def __init__(self, key: bytes, sha256: str) -> None:
        self._state, self._digest = stream.crypto_secretstream_xchacha20poly1305_state(), bytes.fromhex(sha256)
        self._waiting = bytearray()
        header = stream.crypto_secretstream_xchacha20poly1305_init_push(self._state, key)
        self._ready = bytearray(SEALED_MARK + self._digest + header)

    def add(self, piece: bytes, *, last: bool = False) -> bytes:
        """Returns what can be written by now: whole chunks, and after the last piece all that is left."""
        self._waiting += piece
        while len(self._waiting) > CHUNK:
            self._seal(0)
        if last:
            self._seal(_LAST)
        ready, self._ready = bytes(self._ready), bytearray()
        return ready

    def _seal(self, tag: int) -> None:
        chunk = bytes(self._waiting[:CHUNK])
        del self._waiting[:CHUNK]
        self._ready += stream.crypto_secretstream_xchacha20poly1305_push(self._state, chunk, self._digest, tag)


def unsealed(pieces: Iterator[bytes], key: bytes, sha256: str, start: int, stop: int) -> Iterator[bytes]:
    """Yields a sealed blob's content from `start` up to, not including, `stop`, from what follows its digest.

    Raises: BadArtifact: `digest_mismatch`: the blob was changed or is damaged. What was yielded before was right.
    """
    state, waiting, at, tag = stream.crypto_secretstream_xchacha20poly1305_state(), bytearray(), 0, 0

    def take(size: int) -> bytes:
        while len(waiting) < size and (piece := next(pieces, b"")):
            waiting.extend(piece)
        taken = bytes(waiting[:size])
        del waiting[:size]
        return taken

    try:
        stream.crypto_secretstream_xchacha20poly1305_init_pull(state, take(_HEADER), key)
        while at < stop and tag != _LAST:
            sealed, beside = take(CHUNK + _MORE), bytes.fromhex(sha256)
            plain, tag = stream.crypto_secretstream_xchacha20poly1305_pull(state, sealed, beside)
            if at + len(plain) > start:
                yield plain[max(0, start - at) : stop - at]
            at += len(plain)
    except CryptoError:
        fix = "take the file from a backup of artifacts"
        raise BadArtifact(
            "digest_mismatch", "a file of rows is damaged, or was changed", f"{sha256}, byte {at}", fix
        ) from None
