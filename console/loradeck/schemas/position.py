"""What a node can witness of its hub: a position in the log, signed by that hub, and the head of the audit trail.

A node keeps the newest position it was given, and shows it to the hub that it links to next. The signature proves that
a hub of this log handed it out, so a node can neither invent moves nor be disbelieved about those it has seen.
"""

from pydantic import Field

from loradeck.schemas.ids import Digest, Wire, canonical_json


class Position(Wire):
    """The newest event of a log, at one time. The signature is Ed25519 over `signed_bytes`, in hexadecimal."""

    log: str = Field(max_length=64, description="names the history for ever: a restored copy has the same")
    incarnation: str = Field(max_length=64, description="random for each hold of the lease, and so for each epoch")
    epoch: int = Field(ge=0, lt=2**53)
    rev: int = Field(ge=0, lt=2**53)
    hash: Digest
    signature: str = Field("", max_length=128)

    def signed_bytes(self) -> bytes:
        """The bytes that the signature covers: the canonical JSON of the other fields, under a name for their kind."""
        return b"loradeck/position/1\n" + canonical_json(self.model_dump(exclude={"signature"}))


EMPTY_ROOT = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""Root of a tree without leaves: the SHA-256 of nothing (RFC 9162, 2.1.1)."""


class AuditHead(Wire):
    """The number of lines, and the root of the Merkle tree over them (RFC 9162, 2.1.1; SHA-256, hexadecimal)."""

    size: int = Field(0, ge=0)
    root: Digest = EMPTY_ROOT
