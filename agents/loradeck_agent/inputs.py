"""What executors read: datasets, suites and parent adapters, fetched by digest into folders of this node."""

from __future__ import annotations

import hashlib
from pathlib import Path

from loradeck.schemas.ids import canonical_json
from loradeck.schemas.manifest import DatasetManifest, FileEntry, SuiteManifest
from loradeck_agent.errors import AgentError
from loradeck_agent.fetch import fetch
from loradeck_agent.folder import StateFolder
from loradeck_agent.hub_api import HubApi
from loradeck_agent.releases import ReleaseStore

MANIFEST = "manifest.json"


class InputStore:
    """`inputs/DIGEST/`: the files of a dataset or suite and, as `manifest.json`, its manifest."""

    def __init__(self, folder: StateFolder, hub: HubApi, releases: ReleaseStore) -> None:
        self._folder = folder
        self._hub = hub
        self._releases = releases

    async def dataset(self, digest: str) -> Path:
        """Raises AgentError: `unknown_dataset`, `manifest_mismatch`, `disk_full`, or why the hub did not answer."""
        here = self._folder.inputs / digest
        return here if here.is_dir() else await self._install(await self._hub.dataset(digest), here)

    async def suite(self, digest: str) -> Path:
        """Raises AgentError: `unknown_suite`, `manifest_mismatch`, `disk_full`, or why the hub did not answer."""
        here = self._folder.inputs / digest
        return here if here.is_dir() else await self._install(await self._hub.suite(digest), here)

    async def adapter(self, tenant: str, name: str, digest: str, base_folder: Path) -> Path:
        """The folder of an adapter version that another is trained on from.

        Raises:
            AgentError: `unknown_adapter`, or why it cannot be had.
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
