"""Samples of bad answers with their questions: redacted, and kept by nodes for as long as their tenant says."""

from pydantic import Field

from loradeck.schemas.ids import Digest, Line, Name, OfPointer, Whole, Wire

LONGEST_HOURS = 168
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
