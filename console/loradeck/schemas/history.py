"""History of a route: its requests by the minute over the last week, and by the hour before that."""

from pydantic import Field

from loradeck.schemas.counts import WireCounts
from loradeck.schemas.ids import OfPointer, added

WEEK = 7 * 24 * 60
"""Minutes of which there is history by the minute."""

HOURS = 400 * 24
"""Hours of which there is history by the hour."""


class RouteHistory(OfPointer):
    """The answer to `GET /v1/tenants/{t}/routes/{r}/history`: requests by the minute in which the hub counted them.

    The minute that runs is not over; what its routers have reported last is up to a few seconds late. Of more than a
    week there are hours, each under its first minute.
    """

    at_ms: int = Field(description="hub's wall clock")
    since: int = Field(description="first minute that was asked for, in minutes since 1970 UTC")
    minutes: dict[int, WireCounts] = Field(
        default_factory=dict, description="minute -> counts, oldest first; minutes without requests are left out"
    )
    each: int = added(1, "minutes of which each entry has the counts", ge=1)
