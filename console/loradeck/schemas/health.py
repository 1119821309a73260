"""Answers of one release, counted."""

from __future__ import annotations

from loradeck.schemas.ids import Wire


class Health(Wire):
    """Answers of one release: `bad` of `checked`, `errors` of `requests`."""

    requests: int = 0
    errors: int = 0
    checked: int = 0
    bad: int = 0
