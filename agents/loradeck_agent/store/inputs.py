"""Inputs of executors: datasets, suites and parent adapters, fetched by digest into folders of this node."""

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from loradeck.artifacts.adapters import MANIFEST
from loradeck.artifacts.staging import remove
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.ids import canonical_json
from loradeck.schemas.manifest import DatasetManifest, FileEntry, SuiteManifest
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.store.fetch import fetch
from loradeck_agent.store.releases import ReleaseStore
from loradeck_agent.uplink.hub_api import HubApi

log = logging.getLogger(__name__)

ERASED_S = 600.0
"""How often the hub is asked which datasets had rows erased."""


@dataclass(eq=False)
class InputStore:
    """`inputs/DIGEST/`: the files of a dataset or suite and, as `manifest.json`, its manifest."""

    _folder: StateFolder
    _hub: HubApi
    _releases: ReleaseStore

    @property
    def root(self) -> Path:
        """The agent's state folder, in which all inputs lie."""
        return self._folder.root

    async def dataset(self, digest: str) -> Path:
        """The folder of a dataset, fetched when it is not here.

        Raises: AgentError: `unknown_dataset`, `erased_row`, `manifest_mismatch`, `disk_full`, or why the hub did not
        answer.
        """
        if digest in await self.forget_erased():
            raise AgentError("erased_row", "rows of the dataset were erased: it is not trained on any more", digest)
        here = self._folder.inputs / digest
        return here if here.is_dir() else await self._install(await self._hub.dataset(digest), here)

    async def run(self) -> None:
        """Removes datasets with erased rows every ten minutes until cancelled."""
        while True:
            await asyncio.sleep(ERASED_S)
            try:
                if any(self._folder.inputs.iterdir()):
                    await self.forget_erased()
            except AgentError as error:
                log.warning("it is not known which datasets had rows erased: %s", error)

    async def forget_erased(self) -> frozenset[str]:
        """Removes the files of datasets with erased rows from this node. Returns all such datasets.

        Raises: AgentError: why the hub did not answer.
        """
        stated = await self._hub.attestations(AttestationKind.ERASURE)
        erased = frozenset(attestation.subject for attestation in stated)
        for digest in erased:
            here = self._folder.inputs / digest
            if here.is_dir():
                await asyncio.to_thread(remove, here)
                log.info("rows of dataset %s were erased: its files are removed", digest[:12])
        return erased

    async def suite(self, digest: str) -> Path:
        """The folder of a suite, fetched when it is not here.

        Raises: AgentError: `unknown_suite`, `manifest_mismatch`, `disk_full`, or why the hub did not answer.
        """
        here = self._folder.inputs / digest
        return here if here.is_dir() else await self._install(await self._hub.suite(digest), here)

    async def adapter(self, tenant: str, name: str, digest: str, base_folder: Path) -> Path:
        """The folder of an adapter version that another is trained on from.

        Raises: AgentError: `unknown_adapter`, or why it cannot be fetched.
        """
        for version in await self._hub.versions(tenant, name):
            if version.digest == digest:
                return await self._releases.have(version.manifest, base_folder)
        raise AgentError("unknown_adapter", f"{tenant}/{name} has no version of this digest", digest)

    async def _install(self, manifest: DatasetManifest | SuiteManifest, here: Path) -> Path:
        content = canonical_json(manifest)
        entry = FileEntry(path=MANIFEST, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        if any(file.path == MANIFEST for file in manifest.files):
            raise AgentError("manifest_mismatch", f"a file may not be called {MANIFEST}", manifest.name)
        await fetch(self._hub, manifest.files, here, own=((entry, content),))
        return here
