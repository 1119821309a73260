"""Heads of the audit trail, apart from its lines, of which agents know nothing."""

from pydantic import Field

from loradeck.schemas.ids import Digest, Wire

EMPTY_ROOT = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""Root of a tree without leaves: the SHA-256 of nothing (RFC 9162, 2.1.1)."""


class AuditHead(Wire):
    """The number of lines, and the root of the Merkle tree over them (RFC 9162, 2.1.1; SHA-256, hexadecimal)."""

    size: int = Field(0, ge=0)
    root: Digest = EMPTY_ROOT
