"""The form of sealed blobs: libsodium's secretstream (XChaCha20-Poly1305), chunk by chunk, under a key for each blob.

    LDROWS1  SHA-256 of the content  header  chunk ...

No chunk can be changed, moved, left out or taken to another blob, and the last one says that it is the last.
"""

from collections.abc import Iterator

from nacl.bindings import crypto_secretstream as stream
from nacl.exceptions import CryptoError

from loradeck.artifacts.blobs.store import CHUNK, SEALED_MARK
from loradeck.artifacts.errors import BadArtifact

KEY = stream.crypto_secretstream_xchacha20poly1305_KEYBYTES
"""Bytes of a key."""

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
