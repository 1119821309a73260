"""The form of sealed blobs: AES-256-GCM, a chunk at a time, so that a part is read without what stands before it.

    LDROWS1  SHA-256 of the content  chunk  tag  chunk  tag ...

A key seals one blob and never another, so that a chunk's number is its nonce. The blob's digest, and whether a chunk is
the last one, are authenticated with each: none can be changed, moved, left out or taken to another blob.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING

from loradeck.artifacts.blobs.store import CHUNK, SEALED_HEAD, SEALED_MARK
from loradeck.artifacts.errors import BadArtifact

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = 32
"""Bytes of a key."""

_TAG, _NONCE = 16, 12


class Sealer:
    """Seals one blob, piece by piece. `key` must be a new one."""

    def __init__(self, key: bytes, sha256: str) -> None:
        self._cipher, self._digest = _cipher(key), bytes.fromhex(sha256)
        self._number, self._waiting, self._head = count(), bytearray(), SEALED_MARK + self._digest

    def add(self, piece: bytes) -> bytes:
        """Returns what can be written by now. The last chunk waits for `end`."""
        self._waiting += piece
        ready, self._head = bytearray(self._head), b""
        while len(self._waiting) > CHUNK:
            ready += self._chunk(CHUNK, last=False)
        return bytes(ready)

    def end(self) -> bytes:
        """Returns the rest."""
        return self.add(b"") + self._chunk(CHUNK, last=True)

    def _chunk(self, size: int, *, last: bool) -> bytes:
        plain = bytes(self._waiting[:size])
        del self._waiting[:size]
        return self._cipher.encrypt(_nonce(next(self._number)), plain, _beside(self._digest, last=last))


def unsealed(
    read: Callable[[int, int], Iterator[bytes]], key: bytes, sha256: str, size: int, start: int, stop: int
) -> Iterator[bytes]:
    """Yields the bytes of a sealed blob from `start` up to, not including, `stop`, a chunk at a time.

    `read` gives the sealed bytes between two places, `size` is that of the content.

    Raises: BadArtifact: `digest_mismatch`: the blob was changed or is damaged. What was yielded before was right.
    """
    from cryptography.exceptions import InvalidTag

    cipher, digest, whole = _cipher(key), bytes.fromhex(sha256), CHUNK + _TAG
    first, last = start // CHUNK, max(0, size - 1) // CHUNK
    upto = min(max(0, stop - 1) // CHUNK, last)
    pieces = read(SEALED_HEAD + first * whole, min(SEALED_HEAD + (upto + 1) * whole, sealed_size(size)))
    waiting = bytearray()
    for number in range(first, upto + 1 if start < stop else first):
        length = size - last * CHUNK + _TAG if number == last else whole
        while len(waiting) < length and (piece := next(pieces, b"")):
            waiting += piece
        try:
            plain = cipher.decrypt(_nonce(number), bytes(waiting[:length]), _beside(digest, last=number == last))
        except InvalidTag:
            raise BadArtifact(
                "digest_mismatch",
                "a file of rows is damaged, or was changed",
                f"{sha256}, chunk {number}",
                "take the file from a backup of artifacts",
            ) from None
        del waiting[:length]
        yield plain[max(0, start - number * CHUNK) : stop - number * CHUNK]


def sealed_size(size: int) -> int:
    """Bytes that a content of `size` bytes has once it is sealed."""
    return SEALED_HEAD + size + _TAG * (max(0, size - 1) // CHUNK + 1)


def wrapped(key: bytes, secret: bytes, name: str) -> bytes:
    """Encrypts a key under another one; `name` says what it is for, and has to be the same later."""
    nonce = os.urandom(_NONCE)
    return nonce + _cipher(key).encrypt(nonce, secret, name.encode())


def unwrapped(key: bytes, sealed: bytes, name: str) -> bytes | None:
    """The key that was wrapped; None where it was under another key or name."""
    from cryptography.exceptions import InvalidTag

    try:
        return _cipher(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode())
    except (InvalidTag, ValueError):
        return None


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 8 MB of memory, for a hub that has rows

    return AESGCM(key)


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE, "big")


def _beside(digest: bytes, *, last: bool) -> bytes:
    return digest + bytes([last])
