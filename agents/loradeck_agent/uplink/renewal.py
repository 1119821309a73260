"""Renewal of the node's certificate: after a third of its life, and also when it has expired."""

from __future__ import annotations

import asyncio
import logging
import time

from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.identity import Identity
from loradeck_agent.uplink.hub_api import HubApi

log = logging.getLogger(__name__)

LOOK_S = 600.0
"""Seconds between two looks at the certificate's age."""

RETRY_S = 10.0
"""Seconds until the next try of a node whose certificate has expired: until then it cannot link."""


class Renewal:
    """Renews the certificate of a node that has joined. The key stays; joining again makes a new one."""

    def __init__(self, identity: Identity, hub: HubApi) -> None:
        self._identity = identity
        self._hub = hub

    async def run(self) -> None:
        """Renews until cancelled."""
        while True:
            pause = await self.look()
            await asyncio.sleep(pause)

    async def look(self) -> float:
        """Renews the certificate if it is due. Returns the seconds until the next look."""
        if not self._identity.exists:
            return LOOK_S
        validity, now_ms = self._identity.validity(), time.time_ns() // 1_000_000
        if now_ms < validity.renew_ms:
            return LOOK_S
        try:
            self._identity.keep(await self._hub.renew())
            log.info("renewed this node's certificate")
            return LOOK_S
        except (AgentError, OSError) as error:
            log.warning("this node's certificate is not renewed yet: %s", error)
            return LOOK_S if now_ms < validity.until_ms else RETRY_S
