"""The keys of rows, in a folder that is in no backup.

FOLDER/tenants/TENANT.key    a tenant's key, unless a program holds them
FOLDER/versions/DIGEST       the key of a version of a dataset or suite, wrapped by its tenant's; empty: destroyed
FOLDER/blobs/SHA256          of which sealed file a blob can be read, and its key, wrapped by that of each version
FOLDER/erasures.jsonl        every erasure that was carried out: see `hub.data.erasure_list`
"""

import os
import threading
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import ValidationError

from loradeck.artifacts.blobs.key_holders import FolderKeys, KeyHolder, ProgramKeys, shred, unavailable
from loradeck.artifacts.blobs.sealing import KEY, unwrapped, wrapped
from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.staging import private_folder, replace_durably
from loradeck.schemas.ids import Strict

ARRIVED = "_arrived"
"""Stands for the version and the tenant of rows that nobody has registered yet. No tenant can have this name."""


class SealedBlob(Strict):
    """A blob of `size` bytes that lies in the blob `sealed`.

    `keys`: version, or `ARRIVED` -> the blob's key, wrapped by the version's.
    """

    sealed: str
    size: int
    keys: dict[str, str]


class _VersionKey(Strict):
    tenant: str
    key: str


class RowKeys:
    """The keys in a folder. Several threads may use it. `program` holds the tenants' keys; None: the folder does."""

    def __init__(self, folder: Path, program: Path | None = None) -> None:
        self.erasures = folder / "erasures.jsonl"
        self._versions, self._blobs, self._turn = folder / "versions", folder / "blobs", threading.Lock()
        private_folder(self._versions)
        private_folder(self._blobs)
        self._holder: KeyHolder = ProgramKeys(program) if program is not None else FolderKeys(folder / "tenants")

    def blob(self, sha256: str) -> SealedBlob | None:
        """Reads the record of a blob; None: it was never sealed. Raises: BadArtifact `key_unavailable`: damaged."""
        path = self._blobs / sha256
        try:
            return SealedBlob.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise unavailable("the record of a sealed file is damaged", path) from None

    def blobs(self) -> Iterator[tuple[str, SealedBlob]]:
        """Yields the digest and the record of every blob that is or was sealed."""
        for path in sorted(self._blobs.glob("[0-9a-f]*")):
            if (found := self.blob(path.name)) is not None:
                yield path.name, found

    def keep(self, sha256: str, blob: SealedBlob) -> None:
        """Writes the record of a blob."""
        replace_durably(self._blobs / sha256, blob.model_dump_json().encode())

    def wrap(self, version: str, tenant: str, sha256: str, key: bytes) -> str:
        """Wraps a blob's key by that of a version of a tenant's, which is made at its first use."""
        path = self._versions / version
        with self._turn:
            if not path.exists():
                sealed = b64encode(self._holder.wrap(tenant, os.urandom(KEY))).decode()
                replace_durably(path, _VersionKey(tenant=tenant, key=sealed).model_dump_json().encode())
        return b64encode(wrapped(self._key(version), key, sha256)).decode()

    def alive(self, blob: SealedBlob) -> list[str]:
        """Lists the versions by whose keys a blob can be read."""
        return [version for version in blob.keys if self._version(version)]

    def key(self, sha256: str, blob: SealedBlob) -> bytes:
        """Unwraps a blob's key. Raises: BadArtifact: `key_unavailable`."""
        trouble = unavailable("the keys of this file of rows were destroyed, or are not here", self._blobs / sha256)
        for version in self.alive(blob):
            try:
                key = unwrapped(self._key(version), b64decode(blob.keys[version]), sha256)
            except BadArtifact as bad:
                trouble = bad
                continue
            if key is not None:
                return key
            trouble = unavailable("the key of this file of rows is another one", self._versions / version)
        raise trouble

    def destroy(self, versions: Collection[str]) -> None:
        """Destroys the keys of versions for ever; none is made for them again."""
        for version in versions:
            with self._turn:
                if not self._is_destroyed(version):
                    shred(self._versions / version)

    def destroy_tenant(self, tenant: str) -> None:
        """Destroys a tenant's key and those of its versions."""
        self._holder.destroy(tenant)
        stated = ((path.name, self._version(path.name)) for path in self._versions.iterdir())
        self.destroy([version for version, found in stated if found is not None and found.tenant == tenant])

    def _is_destroyed(self, version: str) -> bool:
        path = self._versions / version
        return path.exists() and not path.stat().st_size

    def _key(self, version: str) -> bytes:
        if (found := self._version(version)) is None:
            raise unavailable("the key of these rows was destroyed, or is not here", self._versions / version)
        return self._holder.unwrap(found.tenant, b64decode(found.key))

    def _version(self, version: str) -> _VersionKey | None:
        """A version's key, still wrapped; None: it was destroyed, is not here, or was being destroyed in a crash."""
        try:
            return _VersionKey.model_validate_json((self._versions / version).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None
