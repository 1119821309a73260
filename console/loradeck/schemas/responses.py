"""Answers of the hub's HTTP calls that stand for nothing else: what was registered, made or verified.

Agents read few of them, so that each validator is built when it is first used.
"""

from pydantic import Field

from loradeck.schemas.attestation import BaseLineage
from loradeck.schemas.ids import Digest, Name, Wire
from loradeck.schemas.manifest import AdapterManifest, BaseManifest, DatasetManifest, Release, SuiteManifest


class Registered(Wire):
    """A registered manifest; registering its digest again gives an equal answer."""

    digest: Digest
    label: str | None = Field(None, description="'B1' for a base")


class BaseEntry(Wire):
    """A registered base; `label` is 'B1' for the first one registered."""

    digest: Digest
    label: str
    manifest: BaseManifest
    tenants: tuple[Name, ...] = Field((), description="whose own it is; none: it is for all tenants")
    made: tuple[BaseLineage, ...] = Field((), description="what jobs made it from")


class DatasetEntry(Wire):
    """A registered dataset."""

    digest: Digest
    manifest: DatasetManifest


class SuiteEntry(Wire):
    """A registered suite."""

    digest: Digest
    manifest: SuiteManifest


class ReleaseDetail(Wire):
    """A release, and the manifest of its adapter (None for a base alone)."""

    release: Release
    manifest: AdapterManifest | None = None


class LostAdapter(Wire):
    """An adapter that a pointer names and the hub has no manifest of. `node`: sends its files; None: no node does."""

    digest: Digest
    tenant: Name
    label: str
    node: Name | None


class LostAdapters(Wire):
    """What a hub that has lost its artifacts has back from its nodes, and what it still lacks."""

    registered: tuple[str, ...] = Field(description="adapters that have come with this call, as people name them")
    lacking: tuple[LostAdapter, ...]


class KeyCreated(Wire):
    """A new caller's key. It is shown this once; the hub keeps only its hash."""

    id: str
    key: str = Field(repr=False)


class TokenCreated(Wire):
    """A new token. It is shown this once; the hub keeps only its hash."""

    id: str
    token: str = Field(repr=False)


class BackupMade(Wire):
    """A copy of the hub's database, which holds the log up to `rev` at least. `size` in bytes."""

    path: str
    rev: int
    size: int
