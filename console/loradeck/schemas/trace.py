"""The trace: which release served each request, as routers keep it in memory."""

from pydantic import Field

from loradeck.schemas.ids import Digest, Line, Name, OfPointer, Whole, Wire, added


class NodeTraced(Wire):
    """One node's part in a trace. Not `complete`: its router has dropped older requests, or did not answer."""

    node: Name
    rows: int = 0
    complete: bool = False
    why: str = Field("", description="why it is not complete")
    since_ms: int | None = Field(None, description="start of its router, before which it knows no requests")


class TraceRow(Wire):
    """One admission of a request. A request that was admitted again has one row for each time, with one
    `request` id.
    """

    seq: Whole = Field(description="order in which rows were completed, from 1; starts again with the router")
    request: Line = Field(description="x-request-id of the answer")
    tenant: Name
    route: Name
    release: Digest
    generation: Whole
    replica: Name
    admitted_mono_ns: Whole = Field(
        description="CLOCK_MONOTONIC at the look-up; compare with Ack.mono_ns of the same host"
    )
    admitted_ms: Whole = Field(description="node's wall clock, milliseconds since 1970 UTC")
    first_token_ms: Whole | None = Field(None, description="wall clock; streamed answers only")
    finished_ms: Whole
    status: Whole = Field(description="HTTP status of the answer; 499: the caller left, 0: not sent, admitted again")
    streamed: bool = False
    checked: bool = False
    bad: bool = False
    fault: Line = added("", "the check that made it bad")
    judge: Line = added("", "what came of asking the route's judge; '': it was not drawn")


class Traced(OfPointer):
    """The answer to `GET /v1/tenants/{t}/routes/{r}/traces`: a pointer's newest requests, as the routers hold
    them now.
    """

    release: Digest | None = Field(None, description="only requests that this release served")
    at_ms: int = Field(description="hub's wall clock")
    rows: tuple[TraceRow, ...] = Field(description="oldest first, by the nodes' wall clocks")
    counted: int | None = Field(None, description="requests that the release has answered here by the hub's count")
    nodes: tuple[NodeTraced, ...] = ()

    @property
    def truncated(self) -> bool:
        """Whether requests are missing, or may be."""
        known = all(node.complete for node in self.nodes)
        return not known or (self.counted is not None and len(self.rows) < self.counted)
