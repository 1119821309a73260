"""The head of the audit trail as a checkpoint that witnesses of transparency logs understand.

Formats: C2SP tlog-checkpoint (https://c2sp.org/tlog-checkpoint) in a C2SP signed note with Ed25519
(https://c2sp.org/signed-note).
"""

from __future__ import annotations

import base64
import hashlib

from nacl.signing import SigningKey

from loradeck.schemas.audit import AuditHead

_ED25519 = b"\x01"
"""The byte for Ed25519 in the keys of signed notes."""


def origin_of(log: str) -> str:
    """The name of a log's audit trail among all such logs; it is the name of its key, too."""
    return f"loradeck.audit/{log}"


def checkpoint(log: str, head: AuditHead, key: SigningKey) -> str:
    """The signed note with the size and the root of the tree. `log` is the id of the hub's log."""
    origin = origin_of(log)
    text = f"{origin}\n{head.size}\n{base64.b64encode(bytes.fromhex(head.root)).decode()}\n"
    signature = key.sign(text.encode()).signature
    signed = base64.b64encode(_key_id(origin, key) + signature).decode()
    return f"{text}\n\N{EM DASH} {origin} {signed}\n"


def verifier_key(log: str, key: SigningKey) -> str:
    """Makes the key that a witness is given to check the notes with."""
    origin = origin_of(log)
    public = base64.b64encode(_ED25519 + bytes(key.verify_key)).decode()
    return f"{origin}+{_key_id(origin, key).hex()}+{public}"


def _key_id(origin: str, key: SigningKey) -> bytes:
    return hashlib.sha256(origin.encode() + b"\n" + _ED25519 + bytes(key.verify_key)).digest()[:4]
