"""Where R and F go on each pointer: the one place that the preview and the moves themselves look it up.

Prepares that are pending are kept here: R cancels one before it moves anything.
"""

from dataclasses import dataclass
from typing import NamedTuple

from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.rules.data.lineage import falls_back_to, is_base_alone
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.rollback_target import Target, rollback_target
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import PointerState


class Prepare(NamedTuple):
    """A prepare by its id, and the release that nodes make resident."""

    id: str
    release: str


class Prepares:
    """The pending prepares, at most one for each pointer."""

    def __init__(self) -> None:
        self._pending: dict[PointerKey, Prepare] = {}

    def begin(self, key: PointerKey, prepare: Prepare) -> None:
        """Makes a prepare the pending one of its pointer."""
        self._pending[key] = prepare

    def end(self, key: PointerKey, prepare: str) -> None:
        """Ends a prepare; does nothing where it is no longer the pending one."""
        if self.pending(key) == prepare:
            del self._pending[key]

    def pending(self, key: PointerKey) -> str | None:
        """The id of the prepare that R would cancel; None: none is pending."""
        prepare = self._pending.get(key)
        return prepare.id if prepare else None

    def preparing(self, key: PointerKey) -> str | None:
        """The release that nodes make resident beside the current one; None: none is."""
        prepare = self._pending.get(key)
        return prepare.release if prepare else None

    def ids(self) -> list[str]:
        """The ids of all pending prepares."""
        return [prepare.id for prepare in self._pending.values()]

    def releases(self) -> set[str]:
        """The releases of all pending prepares."""
        return {prepare.release for prepare in self._pending.values()}


@dataclass(eq=False)
class RollbackTargets:
    """Applies the rule `rules.moves.rollback_target` to the state of the log, the facts, and the pending prepares."""

    _state: FoldedLog
    _catalogue: Catalogue
    _facts: Facts
    _prepares: Prepares

    def of(self, pointer: PointerState) -> Target:
        """The target of R on a pointer now."""
        candidate = pointer.candidate.release if pointer.candidate is not None else None
        return rollback_target(
            pointer,
            self._facts.of(pointer.key),
            fallback_allowed=self._state.config(pointer.key).fallback,
            live_is_base=self._is_base(pointer.release),
            candidate_is_base=self._is_base(candidate),
            pending_prepare=self._prepares.pending(pointer.key),
        )

    def _is_base(self, release: str | None) -> bool:
        known = self._catalogue.releases.get(release) if release else None
        return known is not None and is_base_alone(known, self._facts.made)

    def base_alone(self, tenant: str, release: str | None) -> str | None:
        """The release to which F goes from one that is live; None: none is, or it is not registered."""
        known = self._catalogue.releases.get(release) if release else None
        return self._catalogue.base_alone_id(tenant, falls_back_to(known, self._facts.made)) if known else None
