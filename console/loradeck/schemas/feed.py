"""The feed: a console lists (`GET /v1/state`), then watches (`/v1/feed?since=epoch:rev`).

The hub sends log events at once, and changed rows at most once a second, except that the row of a pointer that just
moved or was acknowledged is sent at once.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from loradeck.schemas.ids import PointerKey, Wire
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import Event
from loradeck.schemas.state import HubStatus, NodeRow, TenantRow


class FeedEvents(Wire):
    """New events of the log, oldest first, sent by the hub as soon as they are committed."""

    type: Literal["events"] = "events"
    events: tuple[Event, ...]


class FeedTenants(Wire):
    """Pointer rows that changed, and the (tenant, route) of those that are gone."""

    type: Literal["tenants"] = "tenants"
    rows: tuple[TenantRow, ...]
    gone: tuple[PointerKey, ...] = ()


class FeedNodes(Wire):
    """Node rows that changed, and the names of nodes that were forgotten."""

    type: Literal["nodes"] = "nodes"
    rows: tuple[NodeRow, ...]
    gone: tuple[str, ...] = ()


class FeedJobs(Wire):
    """Jobs that changed."""

    type: Literal["jobs"] = "jobs"
    rows: tuple[Job, ...]


class FeedStatus(Wire):
    """The hub's status and rev, sent at least every two seconds, so that a console notices silence."""

    type: Literal["status"] = "status"
    status: HubStatus


class FeedReset(Wire):
    """The console's cursor is too old or belongs to another log; it must list again."""

    type: Literal["reset"] = "reset"
    why: str


FeedMessage = Annotated[
    FeedEvents | FeedTenants | FeedNodes | FeedJobs | FeedStatus | FeedReset, Field(discriminator="type")
]
"""A message of the feed from hub to console."""
feed_adapter: TypeAdapter[FeedMessage] = TypeAdapter(FeedMessage, config={"defer_build": True})


class FeedShow(Wire):
    """Sent by a console to ask for telemetry of these rows ('tenant/route') and nodes; None means all of them."""

    type: Literal["show"] = "show"
    rows: tuple[str, ...] | None = None
    nodes: tuple[str, ...] | None = None
