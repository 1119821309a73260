"""The only way to register documents: written to the store first, then added to the catalogue in memory."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.store_thread import StoreThread
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion
from loradeck.schemas.release import Release
from loradeck.store.interface import Doc


@dataclass(eq=False)
class Registry:
    """Writes bases, adapter versions, releases, datasets and suites. `catalogue` is what is registered."""

    _store: StoreThread
    catalogue: Catalogue
    one_more: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    """Held from the look at a tenant's quota until its adapter version is registered."""

    async def register(self, kind: Doc, digest: str, body: dict[str, Any], *, tenant: str | None, by: str) -> None:
        """Registers a document. The same digest once more changes nothing."""
        self.catalogue.add(await self._store(lambda s: s.register(kind, digest, body, tenant=tenant, by=by)))

    async def register_release(self, release: Release, by: str) -> None:
        """Registers a release."""
        await self.register(Doc.RELEASE, release.id, release.model_dump(mode="json"), tenant=release.tenant, by=by)

    async def register_adapter(
        self, manifest: AdapterManifest, release: Release, by: str, version: int | None = None
    ) -> AdapterVersion:
        """Registers a version of an adapter, the next one or that with a number, and its `release` under its label."""
        body, digest = manifest.model_dump(mode="json"), manifest.digest
        self.catalogue.add(
            await self._store(lambda s: s.register_adapter(body, digest, release.id, by=by, version=version))
        )
        added = self.catalogue.adapters[digest]
        await self.register_release(release.model_copy(update={"label": f"v{added.version}"}), by)
        return added

    async def use(self, tenant: str, release_id: str, by: str) -> None:
        """Makes sure that a release which a move is about to name is registered: base alone is at its first use.

        Raises: Refused `unknown_release`.
        """
        release = self.catalogue.known(tenant, release_id)
        if release_id not in self.catalogue.releases:
            await self.register_release(release, by)
