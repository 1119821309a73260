"""Labels of releases that no row describes, because they are live nowhere any more."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from loradeck.client.errors import ClientError
from loradeck.tui.hub.connection import Connection
from loradeck.tui.model.registry import Registry
from loradeck.tui.model.state import ConsoleState

NEWEST = 20
"""Events whose releases should have their labels, also where they are not in view."""

AT_A_TIME = 4
"""Tenants whose labels are asked for in one go."""


class Labels:
    """The labels to ask for. The hub is asked once a tenant."""

    def __init__(self, hub: Connection, state: ConsoleState) -> None:
        self._hub = hub
        self._state = state
        self._asked: set[str] = set()

    def wanted(self, in_view: Collection[Hashable]) -> list[str]:
        """Tenants to `learn` now, each named once. `in_view`: the revs of the events on the screen."""
        revs = frozenset(in_view)
        events = list(self._state.events.values())
        row = self._state.row
        here = [event for event in events if row is not None and event.tenant == row.tenant]
        shown = [event for event in events if event.rev in revs]
        unnamed = self._state.unnamed([*here[-NEWEST:], *events[-NEWEST:], *shown])
        tenants = [tenant for tenant in unnamed if tenant not in self._asked][:AT_A_TIME]
        self._asked.update(tenants)
        return tenants

    def of(self, registry: Registry) -> list[str]:
        """Tenants whose gate results name a release that nobody has described, each named once."""
        unknown = {
            gate.tenant
            for gate in registry.gates.values()
            if any(digest and self._state.view(digest) is None for digest in (gate.result.release, gate.result.against))
        }
        tenants = sorted(unknown - self._asked)
        self._asked.update(tenants)
        return tenants

    async def learn(self, tenant: str) -> None:
        """Fetch the labels of a tenant's releases. If the hub does not answer, ids are shown until the next try."""
        try:
            self._state.learn(tenant, await self._hub.api.releases(tenant))
        except ClientError:
            self._asked.discard(tenant)
