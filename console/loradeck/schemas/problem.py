"""Errors on the wire: RFC 9457 problem documents with a stable `code`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from loradeck.schemas.ids import Wire

MEDIA_TYPE = "application/problem+json"


class Problem(Wire):
    """`title` says what was wrong, `detail` where, `fix` what to do. `context` carries e.g. the winner's event."""

    type: str = "about:blank"
    status: int
    code: str
    title: str
    detail: str = ""
    fix: str = ""
    context: dict[str, Any] = Field(default_factory=dict)
