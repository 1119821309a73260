"""Garbage collection of adapters and merged weights on this node's disk that nobody can go back to any more.

Those are adapters whose release the hub has revoked (`hub collect` does that first), that no entry, pin or job here
names, and that no engine lists: one that is listed and gone would end its engine at the next request. So nothing
goes unless every engine of this node has just listed its adapters. Merged weights go once they or their release are
revoked, as an erasure of rows does it, nothing here names the release, and no engine runs on them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from loradeck.artifacts.staging import remove
from loradeck.schemas.attestation import AttestationKind, BaseLineage
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import EngineState
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder, holder_of
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.store.releases import ReleaseStore
from loradeck_agent.uplink.hub_api import HubApi

log = logging.getLogger(__name__)

LOOK_S = 6 * 3600.0
MERGED_S = 600.0
"""How often the hub is asked whether merged weights of this node are revoked."""


@dataclass(frozen=True)
class Collector:
    """Removes revoked adapters and merged weights that nothing on this node names.

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
        """Collects adapters four times a day, and merged weights every ten minutes, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_every(LOOK_S, self.collect, "adapters that nobody can go back to"))
            group.create_task(_every(MERGED_S, self.collect_merged, "revoked merged weights"))

    async def collect_merged(self) -> tuple[str, ...]:
        """Removes merged weights that may go, by their digests as bases. Returns these.

        Raises: AgentError: the hub did not answer: nothing was removed. OSError: the disk refused.
        """
        here = self.folder.merged_here()
        if not here:
            return ()
        revoked = {attestation.subject for attestation in await self.hub.attestations(AttestationKind.REVOCATION)}
        going = []
        for digest in sorted(here):
            releases = {digest, *await self._releases_of(digest)}
            if not releases.isdisjoint(revoked) and self._is_free(digest, releases):
                folder = self.folder.merged / digest
                await asyncio.to_thread(remove, folder.with_name(f"{digest}.manifest.json"))
                await asyncio.to_thread(remove, folder)
                log.info("the merged weights %s are revoked: their files are removed", digest[:12])
                going.append(digest)
        return tuple(going)

    async def _releases_of(self, merged: str) -> set[str]:
        """Ids of the releases that weights which a job made here are served as."""
        stated = await self.hub.attestations(AttestationKind.LINEAGE, merged)
        made = [BaseLineage.model_validate(attestation.body) for attestation in stated]
        return {_release(merged, one).id for one in made}

    def _is_free(self, merged: str, releases: set[str]) -> bool:
        """Tells whether nothing here names merged weights, and no engine runs on them."""
        if self.unsure() or not releases.isdisjoint(self.named()):
            return False
        folder = (self.folder.merged / merged).resolve()
        return not any(
            engine.config.base.resolve() == folder
            and (engine.state is not EngineState.STOPPED or holder_of(self.folder.engine_lock(engine.config.name)))
            for engine in self.engines
        )

    async def collect(self) -> tuple[str, ...]:
        """Removes adapters that may go. Returns their digests.

        Raises: AgentError: the hub or an engine did not answer: nothing was removed. OSError: the disk refused.
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


async def _every(seconds: float, collect: Callable[[], Awaitable[object]], what: str) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await collect()
        except (AgentError, OSError) as error:
            log.warning("%s stay on this node for now: %s", what, error)


def _release(weights: str, made: BaseLineage) -> Release:
    if made.adapter is None:
        return Release.of_base(made.tenant, weights)
    return Release(tenant=made.tenant, form=Form.MERGED, base=made.base, adapter=made.adapter, merged=weights)
