"""The routing table: what the hub wants of a node, entry by entry.

(epoch, generation) is compared per entry; a removed entry is a tombstone (`release` None); the table as a
whole has only a `rev`. The router's file, the agent's journal and the link all carry this one type.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from loradeck.schemas.ids import Digest, Name, Wire, digest_of
from loradeck.schemas.release import Release
from loradeck.schemas.route import Gap, ResponseChecks, Streams


class ReleaseRef(Wire):
    """What a node needs to serve a release: no look-up stands between a directive and its flip."""

    id: Digest
    release: Release
    label: str = ""

    @property
    def engine_name(self) -> str | None:
        return self.release.engine_name


class TableEntry(Wire):
    tenant: Name
    route: Name
    epoch: int
    generation: int
    current: ReleaseRef | None = Field(description="None: a tombstone, requests are refused")
    beneath: tuple[ReleaseRef, ...] = Field(
        (), description="where R would go, newest first; kept resident in this order"
    )
    preparing: ReleaseRef | None = Field(None, description="a promote's candidate, to be made resident as well")
    gap: Gap = Gap.LEFT
    streams: Streams = Streams.FINISH
    checks: ResponseChecks = ResponseChecks()
    canaries: tuple[tuple[dict[str, str], ...], ...] = ()
    signers: tuple[str, ...] = Field((), description="public keys (PEM); some: what one of them signed, or nothing")
    refuse_after_s: float | None = None
    suspended: bool = False
    keys: tuple[Digest, ...] = Field((), description="SHA-256 of the callers' keys that may use this tenant")
    left: ReleaseRef | None = Field(None, description="what the last move left; its engine is not stopped at once")
    moved_ms: int | None = Field(None, description="hub time of the last move, from which that is counted")

    @property
    def fence(self) -> tuple[int, int]:
        return (self.epoch, self.generation)

    @property
    def key(self) -> tuple[str, str]:
        return (self.tenant, self.route)


def table_digest(entries: Iterable[TableEntry]) -> str:
    """Digest of the fences and releases of a table, by which hub and node notice that they differ."""
    rows = sorted(
        [e.tenant, e.route, str(e.epoch), str(e.generation), e.current.id if e.current else ""] for e in entries
    )
    return digest_of({"entries": rows})


class Pin(Wire):
    """A release chosen on the node, without the hub. Ends only by an `unpin` event of the hub."""

    tenant: Name
    route: Name
    release: ReleaseRef
    over: tuple[int, int] = Field(description="(epoch, generation) that it overrides")
    actor: str
    reason: str
    at_ms: int = Field(description="node's wall clock")
    left: Digest | None = Field(None, description="what was in force there before it; None: unknown or nothing")
