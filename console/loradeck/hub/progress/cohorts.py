"""Cohorts: the keys by which a pointer's callers are divided, as far as the hub knows them."""

from collections.abc import Iterable
from dataclasses import dataclass

from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.quality.health import seen
from loradeck.schemas.candidate import Candidate
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.routing import CohortUnit


@dataclass(eq=False)
class Cohorts:
    """Counts keys and resolves the names of callers."""

    _state: FoldedLog
    _counts: RequestCounts

    def keys(self, key: PointerKey, candidate: Candidate, placed: Iterable[str] | None = None) -> int:
        """Counts the keys that a share is drawn from: the tenant's, or those that routers have seen since the start.

        `placed`: the nodes that the pointer is placed on, so that the number rests on no one node's word (`seen`);
        None: a person decides, and the most that any of them has seen counts.
        """
        if candidate.unit is CohortUnit.CALLER:
            return len(self._state.tenant(key[0]).keys)
        by_node = self._counts.keys(key, candidate.generation, candidate.release)
        return max(by_node.values(), default=0) if placed is None else seen(by_node, placed)

    def named(self, tenant: str, unit: CohortUnit, names: tuple[str, ...]) -> tuple[str, ...]:
        """The keys that routers compare: callers are named by the ids of their keys, and known by their digests.

        Raises: Refused `unknown_caller`.
        """
        if unit is not CohortUnit.CALLER:
            return names
        digests = {known.id: known.sha256 for known in self._state.tenant(tenant).keys}
        unknown = [name for name in names if name not in digests]
        if unknown:
            raise Refused(
                "unknown_caller",
                f"{tenant} has no caller's key {unknown[0]!r}",
                detail=f"it has: {', '.join(sorted(digests)) or 'none'}",
                fix="name callers by the ids of their keys",
            )
        return tuple(digests[name] for name in names)
