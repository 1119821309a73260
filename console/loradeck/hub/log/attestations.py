"""The only way to attest: written to the store, then added to the facts, then published to followers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

from loradeck.hub.log.clock import Clock
from loradeck.hub.log.facts import Facts
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.attestation import Attestation, AttestationFilter, AttestationKind
from loradeck.schemas.ids import PointerKey

CHANGES_TARGET = frozenset(
    {AttestationKind.ATTESTED, AttestationKind.SOAKED, AttestationKind.BREACHED, AttestationKind.REVOCATION}
)
"""Kinds that change where R goes, and so which releases are worth a slot on the nodes."""

Follower = Callable[[Attestation, Sequence[PointerKey]], None]
"""Called with a durable attestation and the pointers that it concerns."""


@dataclass(eq=False)
class Attestations:
    """Writes attestations. `facts` is what they add up to."""

    _store: StoreThread
    facts: Facts
    _state: FoldedLog
    _clock: Clock
    _followers: list[Follower] = field(default_factory=list, init=False)

    def follow(self, follower: Follower) -> None:
        """Subscribes to all attestations from now on. Followers are called in the order they subscribed."""
        self._followers.append(follower)

    def draft(
        self, kind: AttestationKind, subject: str, tenant: str, body: dict[str, Any], by: str, route: str | None = None
    ) -> Attestation:
        """An attestation of this moment. Nothing is written."""
        now = self._clock.now_ms()
        return Attestation(kind=kind, subject=subject, tenant=tenant, route=route, body=body, by=by, at_ms=now)

    async def find(self, **wanted: Unpack[AttestationFilter]) -> list[Attestation]:
        """The attestations that fit, oldest first."""
        return await self._store(lambda s: s.attestations(**wanted))

    async def evaluated_on(self, tenant: str, suite: str) -> set[str]:
        """The releases of a tenant that were evaluated on a suite."""
        return await self._store(lambda s: s.evaluated_on(tenant, suite))

    async def add(self, attestation: Attestation) -> Attestation:
        """Writes an attestation; returns it as it was written."""
        written = await self._store(lambda s: s.attest(attestation))
        self._publish(written)
        return written

    async def add_all(self, attestations: Sequence[Attestation], *, background: bool = False) -> None:
        """Writes several attestations in one transaction: all or none. In the background they wait for moves."""
        for written in await self._store(lambda s: s.attest_all(attestations), background=background):
            self._publish(written)

    def _publish(self, written: Attestation) -> None:
        self.facts.add(written)
        if written.route is not None:
            keys = [(written.tenant, written.route)]
        else:
            keys = [key for key in self._state.pointers if key[0] == written.tenant]
        for follower in self._followers:
            follower(written, keys)
