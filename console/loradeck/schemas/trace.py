"""The trace: who was served by which release, request by request, as a router keeps it in memory."""

from __future__ import annotations

from pydantic import Field

from loradeck.schemas.ids import Digest, Name, Wire


class TraceRow(Wire):
    """One admission. A request that was looked up again has one row for each look-up, with one `request` id."""

    seq: int = Field(description="order in which rows were completed, from 1; starts again with the router")
    request: str = Field(description="x-request-id of the answer")
    tenant: Name
    route: Name
    release: Digest
    generation: int
    replica: Name
    admitted_mono_ns: int = Field(
        description="CLOCK_MONOTONIC at the look-up; compare with Ack.mono_ns of the same host"
    )
    admitted_ms: int = Field(description="node's wall clock, milliseconds since 1970 UTC")
    first_token_ms: int | None = Field(None, description="wall clock; streamed answers only")
    finished_ms: int
    status: int = Field(description="what the caller got; 499: the caller left, 0: not sent, looked up again")
    streamed: bool = False
    checked: bool = False
    bad: bool = False
