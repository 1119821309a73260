"""Callers' keys, by their digests: which routes each may use, and by which key of its own a request gets its arm."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import Callers, CohortUnit

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


ANYBODY = Callers()
"""The settings for callers of a route that sets none, or that answers nobody."""


class CallerRoutes:
    """The routes that there are, as far as their callers are concerned, by the callers' keys (SHA-256, hex)."""

    def __init__(self) -> None:
        self._by_caller: dict[str, set[PointerKey]] = {}

    def set_callers(self, key: PointerKey, before: Iterable[str], now: Iterable[str]) -> None:
        """Notes the keys of one route, as they were and as they are."""
        for digest in before:
            routes = self._by_caller[digest]
            routes.discard(key)
            if not routes:
                del self._by_caller[digest]
        for digest in now:
            self._by_caller.setdefault(digest, set()).add(key)

    def routes_of(self, caller: str) -> Collection[PointerKey]:
        """The routes that a caller may use. `caller`: digest of its key."""
        return self._by_caller.get(caller, ())

    def tenants_of(self, bearer: str) -> set[str] | None:
        """Tenants that a caller's key may use; None when no tenant knows it."""
        routes = self._by_caller.get(caller_digest(bearer))
        return {tenant for tenant, _ in routes} if routes else None

    def callers_of(self, caller: str) -> list[Callers]:
        """The settings for callers of every route that a caller may use. `caller`: digest of its key."""
        return [self.callers(key) for key in self.routes_of(caller)]

    def callers(self, key: PointerKey) -> Callers:
        """A route's settings for its callers."""
        raise NotImplementedError

    def models(self, tenants: set[str]) -> list[str]:
        """Names under which these tenants' routes can be asked for."""
        raise NotImplementedError
