"""The feed: a console lists (`GET /v1/state`), then watches (`/v1/feed?since=epoch:rev`).

The hub sends log events at once, and rows that changed at most once a second, except that a row whose
pointer has just moved or been acknowledged is sent at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from loradeck.schemas.ids import Wire
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import Event
from loradeck.schemas.state import HubStatus, NodeRow, TenantRow


class FeedEvents(Wire):
    type: Literal["events"] = "events"
    events: tuple[Event, ...]


class FeedTenants(Wire):
    type: Literal["tenants"] = "tenants"
    rows: tuple[TenantRow, ...]
    gone: tuple[tuple[str, str], ...] = ()


class FeedNodes(Wire):
    type: Literal["nodes"] = "nodes"
    rows: tuple[NodeRow, ...]


class FeedJobs(Wire):
    type: Literal["jobs"] = "jobs"
    rows: tuple[Job, ...]


class FeedStatus(Wire):
    """At least every two seconds: the hub is there, and this is its rev."""

    type: Literal["status"] = "status"
    status: HubStatus


class FeedReset(Wire):
    """The cursor is too old or of another log: list again."""

    type: Literal["reset"] = "reset"
    why: str


FeedMessage = Annotated[
    FeedEvents | FeedTenants | FeedNodes | FeedJobs | FeedStatus | FeedReset, Field(discriminator="type")
]
feed_adapter: TypeAdapter[FeedMessage] = TypeAdapter(FeedMessage)


class FeedShow(Wire):
    """Sent by a console: telemetry is wanted for these rows ('tenant/route') and nodes. None: for all of them."""

    type: Literal["show"] = "show"
    rows: tuple[str, ...] | None = None
    nodes: tuple[str, ...] | None = None
