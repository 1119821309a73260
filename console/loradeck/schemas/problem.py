"""Problem documents: errors on the wire by RFC 9457, with a stable `code`."""

from typing import Any

from pydantic import Field

from loradeck.schemas.ids import Wire

MEDIA_TYPE = "application/problem+json"


class Problem(Wire):
    """An error as the hub and the routers answer it over HTTP.

    `title` says what was wrong, `detail` where, `fix` what to do. `context` carries facts for programs, such as the
    event that was committed first.
    """

    type: str = "about:blank"
    status: int
    code: str
    title: str
    detail: str = ""
    fix: str = ""
    context: dict[str, Any] = Field(default_factory=dict)
