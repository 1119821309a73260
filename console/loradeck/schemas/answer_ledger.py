"""The answer ledger: for every request which release answered it, without a word of question or answer.

A node writes its rows into segments, one tenant's rows of an hour each. A segment is gzip: a `SegmentHead` as one line
of JSON, then a `LedgerRow` a line. The hub keeps it under its digest, with a `Segment` beside it. `Explained` is what
the hub makes of a row for `loradeck explain`.
"""

from typing import Annotated

from pydantic import Field, StringConstraints

from loradeck.schemas.attestation import GateResult
from loradeck.schemas.ids import GENESIS, LARGEST_INT, Digest, Name, Wire, added, json_bytes

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


ROW_BYTES = 8192
"""Most bytes of one row's line."""

Parameters = Annotated[dict[str, bool | int | float | str | None], Field(max_length=64), json_bytes(ROW_BYTES)]


class LedgerRow(Wire):
    """One admission of a request, as the router that admitted it says. Times are milliseconds since 1970 UTC."""

    request: Request = Field(description="x-request-id of the answer")
    route: Name
    release: Digest
    epoch: Moment = Field(0, description="with the generation: the move that was in force")
    generation: Moment
    replica: Short
    admitted_ms: Moment
    first_token_ms: Moment | None = Field(None, description="streamed answers only")
    finished_ms: Moment
    status: Moment = Field(description="HTTP status; 499: the caller left, 0: not sent, admitted again")
    streamed: bool = False
    checked: bool = False
    bad: bool = False
    fault: Short = added("", "the check that made it bad")
    parameters: Parameters = Field(
        default_factory=dict, description="numbers, switches and known words that the request set, no text of it"
    )


class NamedDigest(Wire):
    """A document of the registry, with its name for people."""

    digest: Digest
    name: str


class PutThere(Wire):
    """The event of the log that put a release where it answered."""

    rev: int
    event: str
    kind: str
    actor: str
    role: str
    reason: str = ""
    override: bool = False
    at_ms: int


class Weights(Wire):
    """What stood behind a release, by the registry."""

    release: Digest
    label: str
    form: str = ""
    base: NamedDigest | None = None
    template: NamedDigest | None = Field(None, description="the file of the base that holds its chat template")
    adapter: NamedDigest | None = None
    recipe: Digest | None = Field(None, description="digest of the recipe that the adapter was trained by")
    merged: NamedDigest | None = None
    datasets: tuple[NamedDigest, ...] = ()
    parent: NamedDigest | None = None
    signers: int = Field(0, description="public keys that have signed it")
    revoked: str = Field("", description="why it was revoked since, if it was")


class ExplainedRow(Wire):
    """One admission of the request, with all that the hub knows of what answered it."""

    row: LedgerRow
    tenant: Name
    node: Name
    build: str = Field("", description="of the engine, as the node said; empty where nobody knows")
    weights: Weights
    put_there: PutThere | None = Field(None, description="None: the log has no such move")
    gate: GateResult | None = Field(None, description="the newest result for that release up to the answer")
    gate_at_ms: int | None = None
    segment: Segment | None = Field(None, description="None: it is not in the ledger yet; a router told of it")
    proven: tuple[str, ...] = Field((), description="what was checked and holds, in words")
    doubts: tuple[str, ...] = Field((), description="what does not hold or could not be checked, in words")


class Explained(Wire):
    """The answer to `GET /v1/requests/{request}`."""

    request: Request
    rows: tuple[ExplainedRow, ...] = Field(description="oldest first; a request that was admitted again has several")
    searched: int = Field(description="segments that were read")
    unread: tuple[str, ...] = Field((), description="those that could not be, and why")
    lost: int = Field(0, description="rows, of any tenant, that the nodes of these segments had to give up before")
    since_ms: int = Field(description="searched from here")
    until_ms: int = Field(description="up to here")
