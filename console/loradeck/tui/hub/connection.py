"""A hub as the console uses it: its feed, and the calls of `loradeck.client`, made when the first is needed."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from loradeck.client.config import Context
from loradeck.client.connect import Hubs
from loradeck.client.feed import Feed
from loradeck.schemas.feed import FeedShow
from loradeck.schemas.ids import PointerKey

if TYPE_CHECKING:
    from loradeck.client.api import HubApi

LOOKUP_S = 2.0
"""Seconds for which a lost answer is looked up before the console says OUTCOME UNKNOWN; it goes on after that."""


class HubConnection:
    """The hub of a context."""

    def __init__(self, context: Context) -> None:
        """Raises: ConfigError (unsafe token file, unusable certificate authority)."""
        self._hubs = hubs = Hubs(context)
        # Nothing is on the screen yet. Who says nothing gets the figures of the whole fleet.
        self._feed = Feed(context, show=FeedShow(rows=(), nodes=()), hubs=hubs)
        self._endpoint = hubs.endpoint()
        self.follow = self._feed.follow

    @cached_property
    def api(self) -> HubApi:
        """The hub's calls. They raise `loradeck.client.errors.ClientError`."""
        # HTTP and all of the hub's calls: nothing that the first frame waits for.
        from loradeck.client.api import HubApi
        from loradeck.client.transport import Transport

        return HubApi(Transport(self._endpoint, hubs=self._hubs), lookup_s=LOOKUP_S)

    async def show(self, rows: frozenset[PointerKey], nodes: frozenset[str]) -> None:
        """Name the rows and nodes whose figures are wanted. Moves, flags, new and removed rows come for all of them."""
        await self._feed.show(tuple(f"{tenant}/{route}" for tenant, route in sorted(rows)), tuple(sorted(nodes)))

    async def aclose(self) -> None:
        """Close the connections that calls were made over, if any was."""
        if "api" in self.__dict__:
            await self.api.aclose()
