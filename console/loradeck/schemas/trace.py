"""What routers remember of requests: traces, in memory, and redacted samples of bad answers, as their tenant allows."""

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


LONGEST_SAMPLE_HOURS = 168
"""Longest time for which samples are kept, hours."""

SAMPLES = 20
"""Most samples of a release on a route that a node keeps, and most in one answer."""

MOST_KEPT = 2000
"""Most samples of all releases that a node keeps."""

SAMPLE_CHARS = 4000
"""Most characters of a question, and of an answer, in a sample. Of a longer question the end is kept, of a longer
answer the beginning."""


class Sample(Wire):
    """A bad answer with its question. What has the form of personal data or of a key is replaced in both."""

    request: str = Field(max_length=64, description="x-request-id of the answer")
    tenant: Name
    route: Name
    release: Digest
    at_ms: Whole = Field(description="admission, by the node's wall clock, milliseconds since 1970 UTC")
    fault: str = Field(max_length=40, description="the check that made it bad")
    question: str = Field(max_length=SAMPLE_CHARS)
    answer: str = Field(max_length=SAMPLE_CHARS)


class NodeSample(Sample):
    """A sample, and the node that keeps it."""

    node: Name


class NodeSampled(Wire):
    """One node's part in an answer. `kept`: what it keeps of what was asked for; `why`: why it may be incomplete."""

    node: Name
    kept: int = 0
    why: Line = ""


class Sampled(OfPointer):
    """The answer to `GET /v1/tenants/{t}/routes/{r}/samples`, as the nodes keep them now. The hub keeps none."""

    release: Digest | None = Field(None, description="only its answers")
    at_ms: int = Field(description="hub's wall clock")
    hours: int = Field(description="how long the tenant has them kept")
    rows: tuple[NodeSample, ...] = Field(description="oldest first, by the nodes' wall clocks")
    nodes: tuple[NodeSampled, ...] = ()
