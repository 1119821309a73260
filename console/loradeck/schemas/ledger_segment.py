"""Segments of the answer ledger, as nodes write them and the hub keeps them.

A node writes its rows into segments, one tenant's rows of an hour each. A segment is gzip: a `SegmentHead` as one line
of JSON, then an `answer_ledger.LedgerRow` a line. The hub keeps it under its digest, with a `Segment` beside it.
"""

from typing import Annotated

from pydantic import Field, StringConstraints

from loradeck.schemas.ids import GENESIS, LARGEST_INT, Digest, Name, Wire

LEDGER_DAYS = 400
"""Days for which a tenant's rows are kept unless its data policy says otherwise."""

SEGMENT_ROWS = 100_000
"""Most rows that a node puts in one segment."""

Chain = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Request = Annotated[str, StringConstraints(max_length=64)]
Short = Annotated[str, StringConstraints(max_length=200)]
Moment = Annotated[int, Field(ge=0, le=LARGEST_INT)]


class SegmentHead(Wire):
    """The first line of a segment, as its node says it."""

    version: int = Field(1, ge=1, le=LARGEST_INT)
    node: Name
    tenant: Name
    chain: Chain = Field(description="random, for as long as the node keeps its folder")
    seq: int = Field(ge=1, le=LARGEST_INT, description="gap-free within chain and tenant")
    prev: Digest = Field(GENESIS, description="digest of the segment before it, in chain and tenant")
    first_ms: Moment = Field(description="the earliest admission, by the node's clock")
    last_ms: Moment = Field(description="the latest")
    rows: int = Field(ge=1, le=LARGEST_INT)
    lost: Moment = Field(0, description="rows of any tenant that this chain had to give up before it")
    builds: dict[Short, Short] = Field(
        default_factory=dict, max_length=256, description="replica -> its engine's build, when it was sealed"
    )


class Anchor(Wire):
    """The proof that a segment was here when a line of the audit trail was written: its place in the tree whose root
    that line names.
    """

    line: int = Field(description="seq in the audit trail")
    root: Digest
    at: int = Field(description="place among the leaves, from 0")
    size: int = Field(description="leaves of the tree")
    path: tuple[Digest, ...] = Field(description="RFC 9162, section 2.1.3.1")


class Segment(SegmentHead):
    """A segment that the hub has: its head, and what the hub itself knows of it."""

    sha256: Digest
    size: int = Field(description="bytes, as it is kept")
    received_ms: int = Field(description="hub's wall clock")
    anchor: Anchor | None = Field(None, description="None: not yet; it comes within minutes")


class SegmentKept(Wire):
    """The hub's answer to a segment. Not `kept`: the tenant keeps no ledger, and the node drops it too."""

    kept: bool
