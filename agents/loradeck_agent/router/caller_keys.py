"""Callers' keys, by their digests: which routes each of them may use."""

from collections.abc import Collection, Iterable

from loradeck.schemas.ids import PointerKey
from loradeck_agent.router.cohort_keys import caller_digest


class CallerKeys:
    """The keys (SHA-256, hex) of all routes that there are."""

    def __init__(self) -> None:
        self._routes: dict[str, set[PointerKey]] = {}

    def change(self, key: PointerKey, before: Iterable[str], now: Iterable[str]) -> None:
        """Notes the keys of one route, as they were and as they are."""
        for digest in before:
            routes = self._routes[digest]
            routes.discard(key)
            if not routes:
                del self._routes[digest]
        for digest in now:
            self._routes.setdefault(digest, set()).add(key)

    def routes_of(self, caller: str) -> Collection[PointerKey]:
        """The routes that a caller may use. `caller`: digest of its key."""
        return self._routes.get(caller, ())

    def tenants_of(self, bearer: str) -> set[str] | None:
        """Tenants that a caller's key may use; None when no tenant knows it."""
        routes = self._routes.get(caller_digest(bearer))
        return {tenant for tenant, _ in routes} if routes else None
