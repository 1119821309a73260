"""Signing of the log's positions and of table entries: the hub's key, and the keys whose signatures count.

The private key is a file beside the database and in no backup of it. The public keys of all hubs that signed for this
log are in the database, so that a restored copy on another host still believes what nodes have witnessed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from nacl.signing import SigningKey

from loradeck.artifacts.ed25519 import is_signed, public_half, sign
from loradeck.artifacts.notes import KeyKind, origin_of, signature_line, text_of, verifier_key
from loradeck.artifacts.staging import replace_durably
from loradeck.hub.log.store_thread import StoreThread
from loradeck.schemas.position import AuditHead, Position
from loradeck.schemas.table import SignedText, TableEntry
from loradeck.store.sql_log import Store

KEYS = "hub_keys"
"""The store's key for the public keys (hexadecimal) of the hubs that signed for this log, as a JSON list."""


def private_key(path: Path) -> SigningKey:
    """Reads the hub's key, 32 bytes; makes it, with mode 0600, where there is none.

    Raises:
        OSError: it cannot be read or written.
        ValueError: the file is no key.
    """
    try:
        return SigningKey(path.read_bytes())
    except FileNotFoundError:
        made = SigningKey.generate()
    replace_durably(path, bytes(made))
    return made


@dataclass(eq=False)
class Signing:
    """Signs positions and entries of one log, and knows whose signatures on them count."""

    log: str
    incarnations: dict[int, str]
    """Epoch -> incarnation, of every hold of the lease."""
    keys: tuple[str, ...]
    """Public keys (hexadecimal) of all hubs that signed for this log."""
    _key: SigningKey
    _newest: Position | None = field(default=None, init=False)

    @classmethod
    def load(cls, store: StoreThread, key: SigningKey) -> Signing:
        """The signing of a store's log, whose lease is taken. Adds the key's public half to the trusted ones."""
        own = public_half(key)

        def read(s: Store) -> tuple[str, dict[int, str], list[str]]:
            known: list[str] = json.loads(s.meta(KEYS) or "[]")
            if own not in known:
                known.append(own)
                s.set_meta(KEYS, json.dumps(known))
            return s.snapshot().log, s.incarnations(), known

        log, incarnations, known = store.now(read)
        return cls(log, incarnations, tuple(known), key)

    def position(self, epoch: int, rev: int, hash_: str) -> Position:
        """The signed position of the log's newest event; signed once for each."""
        newest = self._newest
        if newest is None or (newest.epoch, newest.rev, newest.hash) != (epoch, rev, hash_):
            bare = Position(log=self.log, incarnation=self.incarnations[epoch], epoch=epoch, rev=rev, hash=hash_)
            signature = sign(self._key, bare.signed_bytes())
            newest = self._newest = bare.model_copy(update={"signature": signature})
        return newest

    def entry(self, body: str) -> SignedText:
        """The text of an entry, signed."""
        bare = SignedText.model_construct(body=body, signature="")
        return SignedText.model_construct(body=body, signature=sign(self._key, bare.signed_bytes()))

    def signature(self, text: bytes) -> str:
        """The signature of a note's text, in hexadecimal."""
        return sign(self._key, text)

    def note(self, head: AuditHead) -> str:
        """A head of the audit trail as a signed note."""
        text = text_of(self.log, head)
        signature = self.signature(text.encode())
        return f"{text}\n{signature_line(origin_of(self.log), public_half(self._key), signature)}"

    def verifier_keys(self) -> tuple[str, ...]:
        """Makes the keys that notes of the log's hubs are checked with."""
        return tuple(verifier_key(origin_of(self.log), KeyKind.LOG, key) for key in self.keys)

    def is_genuine(self, said: Position | TableEntry) -> bool:
        """Tells whether a hub of this log has signed a position, or an entry as it was read."""
        if isinstance(said, Position):
            return is_signed(said.signed_bytes(), said.signature, self.keys)
        text = said.signed
        return text is not None and said.log == self.log and is_signed(text.signed_bytes(), text.signature, self.keys)
