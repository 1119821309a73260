"""Counts of what callers ask, without text, as nodes give them: kept by the day as long as a tenant says."""

from dataclasses import dataclass
from functools import partial

from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.schemas.input_counts import MOST_AT_ONCE, InputCounts
from loradeck.store.sql_log import Store

KEEP_S = 3600.0
"""Seconds between two looks for days that no policy keeps any more."""


@dataclass(eq=False)
class InputDays:
    """Takes nodes' counts of what callers ask, and removes those that no tenant keeps any longer."""

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
        if counts.requests > MOST_AT_ONCE:
            raise Refused(
                "invalid_request",
                f"a node brings in the counts of {MOST_AT_ONCE} requests at once at most",
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
