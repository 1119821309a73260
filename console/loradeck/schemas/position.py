"""A position in a hub's log, signed by that hub: what a node can witness.

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
