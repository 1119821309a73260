"""The hub's small answers that are no document of their own in the schemas."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from loradeck.schemas.ids import Digest, Wire
from loradeck.schemas.manifest import AdapterManifest, BaseManifest, DatasetManifest, SuiteManifest
from loradeck.schemas.release import Release


class Registered(Wire):
    """A manifest the hub has taken in; registering the same digest again answers the same."""

    digest: Digest
    label: str | None = Field(None, description="'B1' for a base")


class BaseEntry(Wire):
    digest: Digest
    label: str
    manifest: BaseManifest


class DatasetEntry(Wire):
    digest: Digest
    manifest: DatasetManifest


class SuiteEntry(Wire):
    digest: Digest
    manifest: SuiteManifest


class ReleaseDetail(Wire):
    """A release, and the manifest of its adapter (None for a base alone)."""

    release: Release
    manifest: AdapterManifest | None = None


class KeyCreated(Wire):
    """A caller's key. It is shown this once; the hub keeps its hash."""

    id: str
    key: str = Field(repr=False)


class TokenCreated(Wire):
    """A token. It is shown this once; the hub keeps its hash."""

    id: str
    token: str = Field(repr=False)


class AuditVerdict(Wire):
    """Whether the log's chain of hashes holds. `broken` says where it does not."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, serialize_by_alias=True)

    ok: bool
    rev: int
    hash: Digest
    broken: dict[str, Any] | str | int | None = Field(None, alias="break")


class BackupMade(Wire):
    """A copy of the hub's database. It holds the log up to `rev` at least; `size` in bytes."""

    path: str
    rev: int
    size: int
