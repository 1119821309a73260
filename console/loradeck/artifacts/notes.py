"""Signed notes: the head of the audit trail as witnesses of transparency logs read and sign it.

Formats: C2SP tlog-checkpoint (https://c2sp.org/tlog-checkpoint) in a signed note with Ed25519
(https://c2sp.org/signed-note), and the cosignatures of witnesses beneath it (https://c2sp.org/tlog-cosignature).
"""

import base64
import hashlib
from enum import Enum

from loradeck.schemas.link import Countersigned
from loradeck.schemas.position import AuditHead


class KeyKind(Enum):
    """Kinds of keys in signed notes, each with the byte that stands for it."""

    LOG = b"\x01"  # Ed25519 over the text
    WITNESS = b"\x04"  # Ed25519 over a time and the text: cosignature/v1


def origin_of(log: str) -> str:
    """The name of a log's audit trail among all such logs; it is the name of its key, too."""
    return f"loradeck.audit/{log}"


def witness_of(node: str) -> str:
    """The name of a node's key among all witnesses of a trail."""
    return f"loradeck.node/{node}"


def text_of(log: str, head: AuditHead) -> str:
    """The text of a checkpoint, which every signature covers. `log` is the id of the hub's log."""
    return f"{origin_of(log)}\n{head.size}\n{base64.b64encode(bytes.fromhex(head.root)).decode()}\n"


def cosigned_bytes(text: str, at_s: int) -> bytes:
    """The bytes that a witness's signature covers. `at_s`: when it signs, seconds since 1970 UTC."""
    return f"cosignature/v1\ntime {at_s}\n{text}".encode()


def signature_line(name: str, key: str, signature: str) -> str:
    """The line of a log's signature. Key (public) and signature in hexadecimal."""
    return _line(name, KeyKind.LOG, key, bytes.fromhex(signature))


def cosignature_line(node: str, said: Countersigned) -> str:
    """The line of a node's cosignature."""
    stamped = said.at_s.to_bytes(8, "big") + bytes.fromhex(said.signature)
    return _line(witness_of(node), KeyKind.WITNESS, said.key, stamped)


def verifier_key(name: str, kind: KeyKind, key: str) -> str:
    """Makes what whoever is to check signatures of a key is given. `key`: public, in hexadecimal."""
    public = base64.b64encode(kind.value + bytes.fromhex(key)).decode()
    return f"{name}+{_key_id(name, kind, key).hex()}+{public}"


def _line(name: str, kind: KeyKind, key: str, signature: bytes) -> str:
    return f"\N{EM DASH} {name} {base64.b64encode(_key_id(name, kind, key) + signature).decode()}\n"


def _key_id(name: str, kind: KeyKind, key: str) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind.value + bytes.fromhex(key)).digest()[:4]
