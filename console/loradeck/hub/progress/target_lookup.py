"""Where R and F go on each pointer: the one place that the preview and the moves themselves look it up."""

from dataclasses import dataclass

from loradeck.hub.fleet.prepares import Prepares
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.facts import Facts
from loradeck.rules.data.whole_weights import falls_back_to, is_base_alone
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.rollback_target import Target, rollback_target
from loradeck.schemas.log import PointerState


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
