"""Labels of releases that no row describes, because they are live nowhere any more."""

from collections.abc import Collection, Hashable, Mapping

from loradeck.client.errors import ClientError
from loradeck.tui.hub.connection import HubConnection
from loradeck.tui.model.registry import Registry
from loradeck.tui.model.state import ConsoleState

NEWEST = 20
"""Events whose releases should have their labels, also where they are not in view."""

AT_A_TIME = 4
"""Tenants whose labels are asked for in one go."""


class Labels:
    """The labels to ask for. The hub is asked once for each release that nobody has described."""

    def __init__(self, hub: HubConnection, state: ConsoleState) -> None:
        self._hub = hub
        self._state = state
        self._asked: dict[str, str] = {}
        """The releases that were asked about, with their tenants."""

    def wanted(self, in_view: Collection[Hashable]) -> list[str]:
        """Tenants to `learn` now, each named once. `in_view`: the revs of the events on the screen."""
        revs = frozenset(in_view)
        events = list(self._state.events.values())
        row = self._state.row
        here = [event for event in events if row is not None and event.tenant == row.tenant]
        shown = [event for event in events if event.rev in revs]
        moves = self._state.newest_moves(row) if row is not None else []
        unnamed = self._state.unnamed([*moves, *here[-NEWEST:], *events[-NEWEST:], *shown])
        return self._to_ask(unnamed, AT_A_TIME)

    def _to_ask(self, unnamed: Mapping[str, str], most: int | None = None) -> list[str]:
        """The tenants, `most` of them, of releases that were not asked about yet; from now on these were."""
        new = {digest: tenant for digest, tenant in unnamed.items() if digest not in self._asked}
        tenants = list(dict.fromkeys(new.values()))[:most]
        self._asked.update((digest, tenant) for digest, tenant in new.items() if tenant in tenants)
        return tenants

    def of(self, registry: Registry) -> list[str]:
        """Tenants whose gate results name a release that nobody has described, each named once."""
        unknown = {
            digest: gate.tenant
            for gate in registry.gates.values()
            for digest in (gate.result.release, gate.result.against)
            if digest and self._state.view(digest) is None
        }
        return sorted(self._to_ask(unknown))

    async def learn(self, tenant: str) -> None:
        """Fetch the labels of a tenant's releases. If the hub does not answer, ids are shown until the next try."""
        try:
            self._state.learn(tenant, await self._hub.api.releases(tenant))
            again = [digest for digest, of in self._asked.items() if of == tenant and self._state.view(digest)]
        except ClientError:
            again = [digest for digest, of in self._asked.items() if of == tenant]
        for digest in again:
            del self._asked[digest]
