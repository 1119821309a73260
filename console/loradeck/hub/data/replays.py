"""Days that Loradeck did not count itself: imported for the freshness meters, which call them replayed."""

from dataclasses import dataclass

from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.freshness import Replay, Replayed, ReplayedDay
from loradeck.schemas.ids import PointerKey


@dataclass(eq=False)
class Replays:
    """Takes replayed days, each import as an attestation of its release on a route, and finds the newest."""

    _log: Log
    _catalogue: Catalogue
    _attestations: Attestations
    _clock: Clock

    async def take(self, key: PointerKey, replay: Replay, by: str) -> Attestation:
        """Keeps an import; the newest of a release on a route counts.

        Raises: Refused: `unknown_tenant`, `unknown_route`, `unknown_release`; `invalid_request`: a day is there twice
            or is not over.
        """
        self._log.state.route(*key)
        self._catalogue.known(key[0], replay.release)
        days = [one.number for one in replay.days]
        if len(set(days)) < len(days) or max(days) >= self._clock.now_ms() // DAY_MS:
            raise Refused("invalid_request", "replayed days are over, and each is there once", detail="days")
        body = replay.model_dump(mode="json")
        drafted = self._attestations.draft(AttestationKind.REPLAY, replay.release, key[0], body, by, key[1])
        return await self._attestations.add(drafted)

    async def of(self, key: PointerKey, release: str, before: int) -> tuple[Replayed | None, tuple[ReplayedDay, ...]]:
        """Finds the replayed days of a release before a day, in order. From that day on it is counted here."""
        kind = AttestationKind.REPLAY
        found = await self._attestations.find(kind=kind, subject=release, tenant=key[0], route=key[1])
        if not found:
            return None, ()
        stated, replay = found[-1], Replay.model_validate(found[-1].body)
        days = tuple(sorted((one for one in replay.days if one.number < before), key=lambda one: one.day))
        if not days:
            return None, ()
        told = {"by": stated.by, "at_ms": stated.at_ms, "reason": replay.reason}
        return Replayed(days=len(days), first=days[0].day, last=days[-1].day, **told), days
