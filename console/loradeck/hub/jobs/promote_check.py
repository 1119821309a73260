"""Everything that may forbid a promote: checked before its prepare, and again before its commit."""

from __future__ import annotations

from dataclasses import dataclass

from loradeck.hub.data.datasets import Datasets
from loradeck.hub.jobs.gates import Gates
from loradeck.hub.links.capacity import Capacity
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.facts import Facts
from loradeck.rules.errors import Refused
from loradeck.rules.moves import forward
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.quality.signatures import check_signed
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.moves import PromoteRequest


@dataclass(eq=False)
class PromoteCheck:
    """Collects what `rules.moves.forward` needs to decide on a promote."""

    _state: FoldedLog
    _catalogue: Catalogue
    _facts: Facts
    _capacity: Capacity
    _datasets: Datasets
    _gates: Gates
    _clock: Clock

    async def check(self, key: PointerKey, request: PromoteRequest, actor: Actor) -> tuple[str, ...]:
        """The codes that the request's override passes; none where nothing forbids the promote.

        Raises: Refused.
        """
        tenant, config, _ = self._state.route(*key)
        called, now_ms, capacity = self._catalogue.called, self._clock.now_ms(), self._capacity
        self._datasets.check_descent(release=request.release)
        release = self._catalogue.release(request.release, key[0])
        if release is not None:
            signed_by = self._facts.signed.get(release.merged or release.adapter or "", ())
            old = self._facts.deprecated.get(release.adapter or "")
            if old is not None and now_ms >= old.from_ms:
                raise Refused(
                    "deprecated",
                    f"{called(release.id)} is deprecated, and is not promoted any more",
                    detail=old.reason,
                    fix="promote another one, or deprecate it from a later day on",
                    context={"from_ms": old.from_ms},
                )
            check_signed(release, config.signers, signed_by, called(release.id))
        result = await self._gates.judge(key, request.release) if config.gate and release else None
        return forward.check_promote(
            self._state.pointer(key),
            request,
            self._facts.of(key),
            config,
            actor=actor,
            release=release,
            gate_results=[result] if result else [],
            tenant=tenant,
            now_ms=self._clock.now_ms(),
            slots_ok=release is None or capacity.slots_ok(key, release),
            base_placed=bool(capacity.placed(key, release)) if release else False,
            memory_short=capacity.memory_short(key, release) if release else "",
            left_behind=capacity.left_behind(key, release) if release else (),
            name=called,
        )
