"""The audit trail: one line for each thing that somebody did, or tried to do, at the hub."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from loradeck.schemas.ids import Digest, Name, Role, Wire
from loradeck.schemas.position import AuditHead

ATTESTED = "attest"
"""The call of a line that records an attestation: its `detail` is the digest of the attestation."""


LEDGER = "ledger"
"""The call of a line that anchors segments of the answer ledger: the root of the tree over their digests."""

KEPT = "key"
"""The call of a line that records a node's key, which came with a certificate and was not on record."""


class AuditDraft(Wire):
    """A line of the audit trail before it has its number and time."""

    actor: str = Field(description="who it was; '' where nobody showed a valid token")
    role: Role | None = None
    token: str | None = Field(None, description="id of the token; None: the hub's own socket, or none")
    call: str = Field(
        description="method and path of the call, or one of begin, attest, break-glass, feed, key, ledger, link, login "
        "and lost"
    )
    subject: Mapping[str, str] = Field(default_factory=dict, description="what it was about, by name")
    status: int | None = Field(None, description="HTTP status of the answer")
    detail: str = ""


class AuditLine(AuditDraft):
    """A line of the audit trail."""

    seq: int = Field(ge=1, description="gap-free")
    at_ms: int = Field(description="hub's wall clock, milliseconds since 1970 UTC")


class Cosigner(Wire):
    """A node that signs heads of the audit trail: how far it has, and why it did not sign the newest; '' if it did."""

    node: Name
    size: int
    refuses: str = ""


class AuditVerdict(Wire):
    """The hub's audit of its log. `broken` gives the first place where it is not whole; None if it is."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, serialize_by_alias=True)

    ok: bool
    rev: int
    hash: Digest
    broken: dict[str, Any] | str | int | None = Field(None, alias="break")
    trail: AuditHead = Field(AuditHead(), description="the audit trail beside the log")
    cosigners: tuple[Cosigner, ...] = Field((), description="nodes that sign heads of the trail")
