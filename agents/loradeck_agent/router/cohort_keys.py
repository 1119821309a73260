"""The key by which a request belongs to one arm or the other while a candidate is out, read from the request itself."""

import hashlib
from collections.abc import Mapping
from typing import Any

from loradeck.schemas.table import CohortUnit

CONVERSATION = "x-loradeck-conversation"
"""The header in which a caller names the conversation that a request belongs to."""

LONGEST = 512
"""Characters of a key. A longer one is no name, and hashing it would cost the other callers."""


def caller_digest(bearer: str) -> str:
    """The SHA-256 of a caller's key, under which the table knows it."""
    return hashlib.sha256(bearer.encode(errors="surrogateescape")).hexdigest()


def bearer_of(headers: Mapping[str, str]) -> str:
    """The key that a caller sends in `Authorization`; empty if it sends none."""
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else ""


def cohort_key(headers: Mapping[str, str], asked: Mapping[str, Any], unit: CohortUnit) -> str | None:
    """The key of a request: its conversation's header, its body's `user`, or the digest of its caller's key.

    Returns:
        None: the request does not name one, so the live release answers it.
    """
    if unit is CohortUnit.CALLER:
        return caller_digest(bearer_of(headers))
    key = headers.get(CONVERSATION) if unit is CohortUnit.CONVERSATION else asked.get("user")
    return key if isinstance(key, str) and 0 < len(key) <= LONGEST else None
