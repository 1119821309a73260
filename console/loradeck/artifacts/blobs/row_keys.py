"""The keys of rows, in a folder that is in no backup, and who holds those of the tenants.

FOLDER/tenants/TENANT.key    a tenant's key, unless a program holds them; empty: destroyed
FOLDER/versions/DIGEST       the key of a version of a dataset or suite, wrapped by its tenant's; empty: destroyed
FOLDER/blobs/SHA256          where a blob lies sealed, and its key, wrapped by that of each version
FOLDER/erasures.jsonl        every erasure that was carried out: see `hub.data.erasure_list`
"""

import logging
import os
import subprocess
import threading
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from pydantic import ValidationError

from loradeck.artifacts.blobs.sealing import KEY
from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.staging import fsync_folder, private_folder, replace_durably
from loradeck.schemas.ids import Strict

log = logging.getLogger("loradeck.artifacts.blobs.row_keys")

ARRIVED = "_arrived"
"""Stands for the version and the tenant of rows that nobody has registered yet. No tenant can have this name."""

KeyHolder = Callable[[str, str, bytes], bytes]
"""Has the tenants' keys. It is called with a verb, a tenant and bytes. All may take long.

`wrap`, a key: the same under the tenant's key, which is made at its first use. `unwrap`: back. `destroy`: ends the
tenant's for ever; once more changes nothing. Raises: BadArtifact: `key_unavailable`.
"""

ANSWERS_S = 30
"""Seconds that a program may take for one key."""


def in_folder(folder: Path, verb: str, tenant: str, given: bytes) -> bytes:
    """Holds tenants' keys in files of a folder: see `KeyHolder`."""
    path = folder / f"{tenant}.key"
    if verb == "destroy":
        shred(path)
        return b""
    if verb == "wrap" and not path.exists():
        _write(path, os.urandom(KEY))
    key = path.read_bytes() if path.exists() else None
    if key is None or len(key) != KEY or not any(key):  # zeros: a kill in `shred`
        gone = key is not None and not any(key)
        raise unavailable(f"the tenant's key {'was destroyed' if gone else 'is damaged, or is not here'}", path)
    try:
        return bytes(SecretBox(key).encrypt(given)) if verb == "wrap" else SecretBox(key).decrypt(given)
    except CryptoError:
        raise unavailable("the tenant's key is another one than its rows were sealed under", path) from None


def by_program(program: Path, verb: str, tenant: str, given: bytes) -> bytes:
    """Asks a program, as `PROGRAM verb tenant` with the bytes on stdin and stdout: see `KeyHolder`."""
    title = f"the program of keys did not {verb} {tenant}'s"
    try:
        done = subprocess.run([program, verb, tenant], input=given, capture_output=True, timeout=ANSWERS_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise unavailable(title, str(error)[:300]) from None
    fits = {"wrap": 0 < len(done.stdout) <= 4096, "unwrap": len(done.stdout) == KEY}.get(verb, True)
    if done.returncode or not fits:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise unavailable(title, f"exit {done.returncode}, {len(done.stdout)} bytes: {said}")
    return done.stdout


class SealedBlob(Strict):
    """A blob of `size` bytes that lies in the blob `sealed`.

    `keys`: version, or `ARRIVED` -> the blob's key, wrapped by the version's.
    """

    sealed: str
    size: int
    keys: dict[str, str]


class RowKeys:
    """The keys in a folder. Several threads may use it. `program` holds the tenants' keys; None: the folder does."""

    def __init__(self, folder: Path, program: Path | None = None) -> None:
        self.erasures = folder / "erasures.jsonl"
        self._versions, self._blobs, self._turn = folder / "versions", folder / "blobs", threading.Lock()
        try:
            for inner in (self._versions, self._blobs, folder / "tenants"):
                private_folder(inner)
        except OSError as error:  # R has to work without rows
            log.error("no rows can be read or sealed: the folder of their keys cannot be used: %s", error)
        self._ask: KeyHolder = partial(by_program, program) if program else partial(in_folder, folder / "tenants")

    def blob(self, sha256: str) -> SealedBlob | None:
        """Reads the record of a blob; None: it was never sealed. Raises: BadArtifact `key_unavailable`: damaged."""
        path = self._blobs / sha256
        try:
            return SealedBlob.model_validate_json(path.read_bytes())
        except OSError:
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
        _write(self._blobs / sha256, blob.model_dump_json().encode())

    def wrap(self, version: str, tenant: str, key: bytes) -> str:
        """Wraps a blob's key by that of a version of a tenant's, which is made at its first use."""
        path = self._versions / version
        with self._turn:
            if not path.exists():
                _write(path, f"{tenant} {self._ask('wrap', tenant, os.urandom(KEY)).hex()}\n".encode())
        return self._box(version).encrypt(key).hex()

    def alive(self, blob: SealedBlob) -> list[str]:
        """Lists the versions by whose keys a blob can be read."""
        return [version for version in blob.keys if self._version(version)]

    def is_lost(self, blob: SealedBlob) -> bool:
        """Tells whether all keys by which a blob can be read were destroyed. One that is missing may come back."""
        files = [self._versions / version for version in blob.keys]
        return bool(files) and all(file.exists() and not any(file.read_bytes()) for file in files)

    def key(self, sha256: str, blob: SealedBlob) -> bytes:
        """Unwraps a blob's key. Raises: BadArtifact: `key_unavailable`."""
        trouble = unavailable("the keys of this file of rows were destroyed, or are not here", self._blobs / sha256)
        for version in self.alive(blob):
            try:
                return self._box(version).decrypt(bytes.fromhex(blob.keys[version]))
            except BadArtifact as bad:
                trouble = bad
            except (CryptoError, ValueError):
                trouble = unavailable("the key of this file of rows is another one", self._versions / version)
        raise trouble

    def destroy(self, versions: Collection[str], tenants: Collection[str] = ()) -> None:
        """Destroys the keys of versions, and of tenants with their versions, for ever; none is made for them again."""
        stated = ((path.name, self._version(path.name)) for path in self._versions.iterdir() if tenants)
        with self._turn:
            for version in (*versions, *(name for name, found in stated if found and found[0] in tenants)):
                shred(self._versions / version)
            for tenant in tenants:
                self._ask("destroy", tenant, b"")

    def _box(self, version: str) -> SecretBox:
        if (found := self._version(version)) is None:
            raise unavailable("the key of these rows was destroyed, or is not here", self._versions / version)
        return SecretBox(self._ask("unwrap", found[0], found[1]))

    def _version(self, version: str) -> tuple[str, bytes] | None:
        """Reads a version's tenant and wrapped key; None: it was destroyed, perhaps in a crash, or is not here."""
        try:
            tenant, key = (self._versions / version).read_text().split()
            return tenant, bytes.fromhex(key)
        except (OSError, ValueError):
            return None


def _write(path: Path, data: bytes) -> None:
    try:
        replace_durably(path, data)
    except OSError as error:
        raise unavailable("the folder of keys cannot be written", f"{path}: {error.strerror}") from None


def shred(path: Path) -> None:
    """Overwrites a file and leaves it empty, durably. What a disk or a snapshot keeps underneath is not reached."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb", buffering=0) as file:
        file.write(bytes(path.stat().st_size))
        os.fsync(file.fileno())
        file.truncate(0)
        os.fsync(file.fileno())
    fsync_folder(path.parent)


def unavailable(title: str, where: object) -> BadArtifact:
    """Makes the error of a key that cannot be had."""
    fix = "start the hub with the keys that it had (loradeck hub run --keys, --key-program); see docs/data.md"
    return BadArtifact("key_unavailable", title, str(where), fix)
