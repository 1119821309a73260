"""A/B comparisons at the hub: at the horizon that was stated, what both arms say is attested, and nothing moves."""

import logging
from dataclasses import dataclass, field

from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.background import Background
from loradeck.hub.log.clock import Clock
from loradeck.hub.progress.arm_outcomes import ArmsSaid
from loradeck.rules.quality import arm_comparison
from loradeck.rules.quality.arm_comparison import difference, highest, units_of
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.candidate import Candidate, Comparison, ComparisonResult
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import PointerState
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.automation.comparisons")


@dataclass(eq=False)
class Comparisons:
    """The A/B comparisons of candidates that are out."""

    _arms: ArmsSaid
    _attestations: Attestations
    _background: Background
    _clock: Clock
    _writing: set[PointerKey] = field(default_factory=set, init=False)

    def look(self, pointer: PointerState, out: Candidate, placed: frozenset[str], stands: str) -> str:
        """Ends a comparison whose horizon is reached. Returns in words what its end waits for; '': it is recorded.

        Args:
            placed: the nodes that the pointer is placed on.
            stands: why no result is taken now, as while the hub settles; '': it is.
        """
        asked, known = out.comparison, self._attestations.facts.comparison(pointer.key, out.release)
        recorded = known is not None and (known.generation, known.comparison) == (out.generation, asked)
        if asked is None or pointer.release is None or recorded:
            return ""
        waits = arm_comparison.awaited(asked, *self._arms.both(pointer, out), self._clock.now_ms(), placed) or stands
        if waits:
            return f"the end of its A/B of {asked.figure.value}: {waits}"
        if pointer.key not in self._writing:
            self._writing.add(pointer.key)
            draft = self._result(pointer, pointer.release, out, asked, placed)
            self._background.spawn(self._record(pointer.key, draft))
        return f"the record of its A/B of {asked.figure.value}"

    def _result(
        self, pointer: PointerState, live: str, out: Candidate, asked: Comparison, placed: frozenset[str]
    ) -> Attestation:
        figure, (candidate, other) = asked.figure, self._arms.both(pointer, out)
        found = difference(units_of(candidate, figure), units_of(other, figure))
        before = self._attestations.facts.comparison(pointer.key, out.release)
        number = 1 + (before.number if before is not None else 0)
        body = ComparisonResult(
            release=out.release,
            against=live,
            generation=out.generation,
            permille=out.permille,
            comparison=asked,
            at_ms=self._clock.now_ms(),
            arms=arm_comparison.compared(figure, candidate, other, found, placed),
            highest=highest(figure, candidate, other, placed, number),
            number=number,
        )
        return self._attestations.draft(
            AttestationKind.COMPARISON, out.release, pointer.tenant, body, "hub", pointer.route
        )

    async def _record(self, key: PointerKey, draft: Attestation) -> None:
        try:
            await self._attestations.add(draft)
        except StoreError as error:
            log.error("an A/B is not recorded yet tenant=%s route=%s code=%s %s", *key, error.code, error)
        finally:
            self._writing.discard(key)
