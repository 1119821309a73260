"""The registry in memory: bases, adapter versions, releases, datasets and suites, and their names for people.

Base alone is a release of every tenant on every base. It is not registered until something names it: its id
follows from the tenant and the base.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.errors import Refused
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import (
    AdapterManifest,
    AdapterVersion,
    BaseManifest,
    DatasetManifest,
    Form,
    Release,
    SuiteManifest,
)
from loradeck.schemas.state import ReleaseView
from loradeck.schemas.table import ReleaseRef
from loradeck.store.interface import Doc, StoredDocument
from loradeck.store.sql_log import Store


class Catalogue:
    """Everything that is registered. It only grows."""

    def __init__(self) -> None:
        self.bases: dict[str, BaseManifest] = {}
        self.adapters: dict[str, AdapterVersion] = {}
        self.releases: dict[str, Release] = {}
        self.datasets: dict[str, DatasetManifest] = {}
        self.suites: dict[str, SuiteManifest] = {}
        self.rows_in: dict[str, set[str]] = defaultdict(set)
        """SHA-256 of a file with rows -> the datasets and suites that name it."""
        self.adapters_with: dict[str, set[str]] = defaultdict(set)
        """SHA-256 of a file -> the adapter versions that name it."""

        self.base_tenants: dict[str, str] = {}
        """Base -> the tenant that it was registered for; none where it is for all."""

        self.whole: dict[str, list[str]] = defaultdict(list)
        """Weights that are a tenant's own, or merged -> the releases that are these weights."""

        self._base_labels: dict[str, str] = {}
        self._views: dict[str, ReleaseView] = {}
        self._refs: dict[str, ReleaseRef] = {}
        self._base_alone: dict[tuple[str, str], str] = {}

    @classmethod
    def load(cls, store: Store) -> Catalogue:
        """Reads all that the store has registered."""
        catalogue = cls()
        for kind in Doc:
            for document in store.registry(kind):
                catalogue.add(document)
        return catalogue

    def add(self, document: StoredDocument) -> None:
        """Adds a document that the store has registered. Adding it once more changes nothing."""
        digest, body = document.digest, document.body
        match document.kind:
            case Doc.BASE:
                self.bases[digest] = BaseManifest.model_validate(body)
                self._base_labels[digest] = f"B{document.serial}"
                if document.tenant is not None:
                    self.base_tenants[digest] = document.tenant
            case Doc.ADAPTER:
                version = AdapterVersion.model_validate(body)
                self.adapters[version.digest] = version
                for file in version.manifest.files:
                    self.adapters_with[file.sha256].add(digest)
            case Doc.RELEASE:
                known, self.releases[digest] = digest in self.releases, (release := Release.model_validate(body))
                own = release.form is Form.BASE and release.base in self.base_tenants
                if not known and (own or release.form is Form.MERGED):
                    self.whole[release.served_base].append(digest)
            case Doc.DATASET:
                self.datasets[digest] = dataset = DatasetManifest.model_validate(body)
                self._index(digest, dataset)
            case Doc.SUITE:
                self.suites[digest] = suite = SuiteManifest.model_validate(body)
                self._index(digest, suite)
        self._views.pop(digest, None)

    def _index(self, digest: str, manifest: DatasetManifest | SuiteManifest) -> None:
        for file in manifest.files:
            self.rows_in[file.sha256].add(digest)

    def base_label(self, base: str | None) -> str:
        """'B1'; the first digits of a base that is not registered; '-' for none."""
        return self._base_labels.get(base, short(base)) if base else "-"

    def base_alone_id(self, tenant: str, base: str) -> str:
        """The id of `Release.of_base`. It is kept, because every row needs it."""
        found = self._base_alone.get((tenant, base))
        if found is None:
            found = self._base_alone[tenant, base] = Release.of_base(tenant, base).id
        return found

    def release(self, release_id: str, tenant: str | None = None, tenants: Iterable[str] = ()) -> Release | None:
        """A release by id: a registered one, or base alone of `tenant` or of one of `tenants`; None: neither."""
        found = self.releases.get(release_id)
        if found is not None:
            return found
        for name in [tenant] if tenant else tenants:
            for base in self.bases:
                if self.base_alone_id(name, base) == release_id:
                    return Release.of_base(name, base)
        return None

    def known(self, tenant: str, release_id: str) -> Release:
        """A tenant's release by id, base alone too. Raises: Refused `unknown_release`, for another tenant's as well."""
        found = self.release(release_id, tenant)
        if found is None or found.tenant != tenant:
            raise Refused(
                "unknown_release",
                "this tenant has no such release",
                detail=f"{tenant}: {release_id}",
                fix="loradeck release ls, or register its adapter first",
            )
        return found

    def dataset(self, tenant: str, digest: str) -> DatasetManifest:
        """A tenant's dataset. Raises: Refused `unknown_dataset`, for another tenant's as well."""
        found = self.datasets.get(digest)
        if found is None or found.tenant != tenant:
            raise Refused("unknown_dataset", "this tenant has no such dataset", detail=digest)
        return found

    def suite(self, tenant: str, digest: str) -> SuiteManifest:
        """A tenant's suite. Raises: Refused `unknown_suite`, for another tenant's as well."""
        found = self.suites.get(digest)
        if found is None or found.tenant != tenant:
            raise Refused("unknown_suite", "this tenant has no such suite", detail=digest)
        return found

    def adapter(self, tenant: str, digest: str) -> AdapterVersion:
        """A tenant's adapter version. Raises: Refused `unknown_adapter`, for another tenant's as well."""
        found = self.adapters.get(digest)
        if found is None or found.manifest.tenant != tenant:
            raise Refused("unknown_adapter", "this tenant has no such adapter version", detail=digest)
        return found

    def check_base(self, digest: str) -> None:
        """Checks that a base is registered. Raises: Refused `unknown_base`."""
        if digest not in self.bases:
            raise Refused("unknown_base", "no such base is registered", detail=digest, fix="loradeck base add, first")

    def ref(self, release_id: str) -> ReleaseRef | None:
        """The reference by which a node serves a release; None for one that is not registered."""
        found = self.releases.get(release_id)
        if found is None:
            return None
        ref = self._refs.get(release_id)
        if ref is None or ref.release is not found:
            ref = self._refs[release_id] = ReleaseRef(id=release_id, release=found, label=found.label)
        return ref

    def view(self, release_id: str, tenant: str | None = None) -> ReleaseView:
        """A release as people recognise it.

        With its `tenant` given, base alone is recognised before it is registered. An unknown release is shown by the
        first digits of its id.
        """
        view = self._views.get(release_id)
        if view is not None:
            return view
        found = self.releases.get(release_id)
        if found is not None:
            view = self._views[release_id] = _view(found, self.base_label(found.served_base))
            return view
        implied = self.release(release_id, tenant) if tenant is not None else None
        if implied is not None:
            return _view(implied, self.base_label(implied.base))
        return ReleaseView(id=release_id, form=Form.ADAPTER, label=short(release_id), base=release_id, base_label="?")

    def called(self, release_id: str | None) -> str:
        """A release as people name it: 'v3 (b81e07)'."""
        label = self.view(release_id).label if release_id is not None else short(release_id)
        return label if label == short(release_id) else f"{label} ({short(release_id)})"

    def kept(self, tenant: str, deprecated: Container[str]) -> list[AdapterManifest]:
        """The manifests of a tenant's adapter versions, but of deprecated ones."""
        return [
            version.manifest
            for digest, version in self.adapters.items()
            if version.manifest.tenant == tenant and digest not in deprecated
        ]

    def weights(self, tenant: str, revoked: Container[str]) -> list[BaseManifest]:
        """The whole weights that a tenant's jobs have made, but those of which every release is revoked."""
        own = [base for base, owner in self.base_tenants.items() if owner == tenant]
        gone = {base for base in own if self.whole.get(base) and all(one in revoked for one in self.whole[base])}
        return [self.bases[base] for base in own if base not in gone]

    def sku(self, base: str | None) -> str:
        """Names the releases that are whole weights, 'acme v7m'; '' for a base that no job has made."""
        found = [self.releases[release] for release in self.whole.get(base or "", ())]
        return ", ".join(f"{release.tenant} {release.label}" for release in found)

    def version_of(self, release: Release) -> AdapterVersion | None:
        """The adapter version that a release serves; None for a base alone."""
        return self.adapters.get(release.adapter) if release.adapter else None


def _view(release: Release, base_label: str) -> ReleaseView:
    return ReleaseView(
        id=release.id,
        form=release.form,
        label=release.label or short(release.id),
        base=release.served_base,
        base_label=base_label,
        adapter=release.adapter,
    )


@dataclass(eq=False)
class Registry:
    """The only way to register documents: they are written to the store, then added to the `catalogue`."""

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
