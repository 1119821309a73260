"""Garbage collection of adapters on this node's disk that nobody can go back to any more.

Those are adapters whose release the hub has revoked (`hub collect` does that first), that no entry, pin or job here
names, and that no engine lists: one that is listed and gone would end its engine at the next request. So nothing
goes unless every engine of this node has just listed its adapters.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from loradeck.artifacts.staging import remove
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.link import EngineState
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder, holder_of
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.store.releases import ReleaseStore
from loradeck_agent.uplink.hub_api import HubApi

log = logging.getLogger(__name__)

LOOK_S = 6 * 3600.0


@dataclass(frozen=True)
class Collector:
    """Removes revoked adapters that nothing on this node names.

    Args:
        named: ids of the releases that something here names or holds.
        unsure: whether that is not known yet, or a job is at work that may read any of them.
    """

    folder: StateFolder
    store: ReleaseStore
    hub: HubApi
    engines: tuple[EngineReplica, ...]
    named: Callable[[], Collection[str]]
    unsure: Callable[[], bool]

    async def run(self) -> None:
        """Collects four times a day until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.collect()
            except (AgentError, OSError) as error:
                log.warning("adapters that nobody can go back to stay on this node for now: %s", error)

    async def collect(self) -> tuple[str, ...]:
        """Removes adapters that may go. Returns their digests.

        Raises:
            AgentError: the hub or an engine did not answer: nothing was removed. OSError: the disk refused.
        """
        here = self.store.releases()
        if not here:
            return ()
        stated = await self.hub.attestations(AttestationKind.REVOCATION)
        revoked = {attestation.subject for attestation in stated} & here.keys()
        listed = await self._listed() if revoked else set()
        if listed is None or self.unsure():
            return ()
        # From here to the last rename nothing waits, so that what is named now is all that is.
        going = [here[release] for release in sorted(revoked - set(self.named())) if here[release] not in listed]
        for folder in self.store.forget(going):
            await asyncio.to_thread(remove, folder)
        if going:
            log.info("%d adapters that nobody can go back to were removed", len(going))
        return tuple(going)

    async def _listed(self) -> set[str] | None:
        """Digests of the adapters that engines of this node list; None where one of them cannot say."""
        found: set[str] = set()
        for engine in self.engines:
            if engine.up:
                found |= {Path(root).name for root in (await engine.api.models()).values()}
            elif engine.state is not EngineState.STOPPED or holder_of(self.folder.engine_lock(engine.config.name)):
                return None
        return found
