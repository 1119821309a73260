"""Renewal of the node's certificate: after a third of its life, when it has expired, and under another authority."""

import asyncio
import contextlib
import logging
import random
import time

from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.identity import Identity
from loradeck_agent.uplink.hub_api import HubApi

log = logging.getLogger(__name__)

LOOK_S = 600.0
"""Seconds between two looks at the certificate's age."""

RETRY_S = 10.0
"""Seconds until the next try of a node whose certificate has expired: until then it cannot link."""


SPREAD_S = 10.0
"""Seconds over which the nodes of a fleet renew that were told of another authority together."""


class Renewal:
    """Renews the certificate of a node that has joined. The key stays; joining again makes a new one."""

    def __init__(self, identity: Identity, hub: HubApi) -> None:
        self._identity = identity
        self._hub = hub
        self._roots: tuple[str, ...] = ()
        """The authorities that the hub has told of, until it was asked for them."""
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Renews until cancelled."""
        while True:
            self._told.clear()
            pause = await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._told.wait()
                await asyncio.sleep(random.uniform(0, SPREAD_S))

    def told(self, roots: tuple[str, ...]) -> None:
        """The hub has said on which authorities its certificates rest."""
        self._roots = roots
        if self._identity.exists and roots != self._identity.roots():
            self._told.set()

    async def look(self) -> float:
        """Renews the certificate if it is due. Returns the seconds until the next look."""
        if not self._identity.exists:
            return LOOK_S
        validity, now_ms = self._identity.validity(), time.time_ns() // 1_000_000
        others = bool(self._roots) and self._roots != self._identity.roots()
        if now_ms < validity.renew_ms and not others:
            return LOOK_S
        try:
            self._identity.keep(await self._hub.renew())
            self._roots = ()  # what it gave counts, until it says otherwise again
            log.info("renewed this node's certificate")
            return LOOK_S
        except (AgentError, OSError) as error:
            log.warning("this node's certificate is not renewed yet: %s", error)
            return LOOK_S if now_ms < validity.until_ms and not others else RETRY_S
