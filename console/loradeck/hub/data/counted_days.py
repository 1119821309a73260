"""Days that the freshness meters judge: what nodes count of what callers ask, and days that were replayed."""

from dataclasses import dataclass
from functools import partial

from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.counts import MOST_INPUTS_AT_ONCE, InputCounts
from loradeck.schemas.freshness import Replay, Replayed, ReplayedDay
from loradeck.schemas.ids import PointerKey
from loradeck.store.sql_log import Store

KEEP_S = 3600.0
"""Seconds between two looks for days that no policy keeps any more."""


@dataclass(eq=False)
class InputDays:
    """Takes nodes' counts of what callers ask, without text; keeps them by the day, as long as a tenant says."""

    _log: Log
    _store: StoreThread
    _clock: Clock

    async def take(self, tenant: str, counts: InputCounts) -> None:
        """Adds a node's counts to those of their day.

        Raises: Refused: `unknown_tenant`, `unknown_route`; `inputs_off`: the tenant has none counted, or not of
            that day; `invalid_request`: more than a node can have counted, which would outweigh all others.
        """
        today = self._clock.now_ms() // DAY_MS
        self._log.state.route(tenant, counts.route)
        if not self._days(tenant) or not today - 3 <= counts.day <= today + 1:
            raise Refused(
                "inputs_off",
                f"{tenant} has nothing counted of what its callers ask on that day",
                detail=f"day {counts.day}",
                fix=f"a releaser turns it on: loradeck tenant data {tenant} --input-days 400 --reason WHY",
            )
        if counts.requests > MOST_INPUTS_AT_ONCE:
            raise Refused(
                "invalid_request",
                f"a node brings in the counts of {MOST_INPUTS_AT_ONCE} requests at once at most",
                detail=f"requests {counts.requests}",
                fix="bring in what was counted every quarter of an hour, as loradeck-agent does",
            )
        await self._store(partial(Store.add_inputs, tenant=tenant, counts=counts), background=True)

    async def keep(self) -> None:
        """Removes days that are older than their tenant's policy keeps them."""
        today = self._clock.now_ms() // DAY_MS
        before = {name: today - days if (days := self._days(name)) else today + 2 for name in self._log.state.tenants}
        await self._store(partial(Store.expire_inputs, before=before), background=True)

    def _days(self, tenant: str) -> int:
        return self._log.state.tenant(tenant).keeps.input_days


@dataclass(eq=False)
class Replays:
    """Takes days that Loradeck did not count itself, and finds the newest.

    Each import is an attestation of its release on a route, and the meters call its days replayed.
    """

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
        return await self._attestations.state(AttestationKind.REPLAY, replay.release, key[0], replay, by, key[1])

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
