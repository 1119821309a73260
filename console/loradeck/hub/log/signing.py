"""Signing of the log's positions: the hub's key, the keys that it trusts, and the signed position of its newest event.

The private key is a file beside the database and in no backup of it. The public keys of all hubs that signed for this
log are in the database, so that a restored copy on another host still believes what nodes have witnessed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from loradeck.artifacts.staging import fsync_folder
from loradeck.hub.log.store_thread import StoreThread
from loradeck.schemas.position import Position
from loradeck.store.interface import Store

KEYS = "hub_keys"
"""The store's key for the public keys (hexadecimal) of the hubs that signed for this log, as a JSON list."""


def private_key(path: Path) -> Ed25519PrivateKey:
    """Reads the hub's key, 32 bytes; makes it, with mode 0600, where there is none.

    Raises:
        OSError: it cannot be read or written.
        ValueError: the file is no key.
    """
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except FileNotFoundError:
        made = Ed25519PrivateKey.generate()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(made.private_bytes_raw())
        file.flush()
        os.fsync(file.fileno())
    fsync_folder(path.parent)
    return made


@dataclass(eq=False)
class Signing:
    """Signs positions of one log, and knows whose signatures on positions count."""

    log: str
    incarnations: dict[int, str]
    """Epoch -> incarnation, of every hold of the lease."""
    _key: Ed25519PrivateKey
    _trusted: list[Ed25519PublicKey]
    _newest: Position | None = field(default=None, init=False)

    @classmethod
    def load(cls, store: StoreThread, key: Ed25519PrivateKey) -> Signing:
        """The signing of a store's log, whose lease is taken. Adds the key's public half to the trusted ones."""
        own = key.public_key().public_bytes_raw().hex()

        def read(s: Store) -> tuple[str, dict[int, str], list[str]]:
            known: list[str] = json.loads(s.meta(KEYS) or "[]")
            if own not in known:
                known.append(own)
                s.set_meta(KEYS, json.dumps(known))
            return s.snapshot().log, s.incarnations(), known

        log, incarnations, known = store.now(read)
        return cls(log, incarnations, key, [Ed25519PublicKey.from_public_bytes(bytes.fromhex(one)) for one in known])

    def position(self, epoch: int, rev: int, hash_: str) -> Position:
        """The signed position of the log's newest event; signed once for each."""
        newest = self._newest
        if newest is None or (newest.epoch, newest.rev, newest.hash) != (epoch, rev, hash_):
            bare = Position(log=self.log, incarnation=self.incarnations[epoch], epoch=epoch, rev=rev, hash=hash_)
            signature = self._key.sign(bare.signed_bytes()).hex()
            newest = self._newest = bare.model_copy(update={"signature": signature})
        return newest

    def is_genuine(self, position: Position) -> bool:
        """Whether a hub of this log has signed a position."""
        try:
            signature = bytes.fromhex(position.signature)
        except ValueError:
            return False
        return any(_verifies(key, signature, position.signed_bytes()) for key in self._trusted)


def _verifies(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True
