"""Who holds the tenants' keys: a folder of this machine, or a program that asks a PKCS#11 token or a KMS."""

import os
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from loradeck.artifacts.blobs.sealing import KEY, unwrapped, wrapped
from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.staging import fsync_folder, private_folder, replace_durably

ANSWERS_S = 30
"""Seconds that a program may take for one key."""

_MOST = 4096


class KeyHolder(ABC):
    """Has a key for each tenant, and wraps the keys of its rows. All calls may take long, and raise BadArtifact
    `key_unavailable`: there is no such key, it was destroyed, it is another one, or who holds it does not answer.
    """

    @abstractmethod
    def wrap(self, tenant: str, key: bytes) -> bytes:
        """Encrypts a key of 32 bytes under the tenant's, which is made at its first use."""

    @abstractmethod
    def unwrap(self, tenant: str, sealed: bytes) -> bytes:
        """The key that was wrapped."""

    @abstractmethod
    def destroy(self, tenant: str) -> None:
        """Destroys the tenant's key for ever. None is made for it again. Once more changes nothing."""


class FolderKeys(KeyHolder):
    """Keys in files of one folder: `TENANT.key`, 0600; an empty one was destroyed."""

    def __init__(self, folder: Path) -> None:
        private_folder(folder)
        self._folder = folder

    def wrap(self, tenant: str, key: bytes) -> bytes:
        """See `KeyHolder.wrap`."""
        path = self._path(tenant)
        if not path.exists():
            replace_durably(path, os.urandom(KEY))
        return wrapped(self._key(tenant), key, tenant)

    def unwrap(self, tenant: str, sealed: bytes) -> bytes:
        """See `KeyHolder.unwrap`."""
        key = unwrapped(self._key(tenant), sealed, tenant)
        if key is None:
            raise unavailable("the tenant's key is another one than its rows were sealed under", self._path(tenant))
        return key

    def destroy(self, tenant: str) -> None:
        """See `KeyHolder.destroy`."""
        shred(self._path(tenant))

    def _path(self, tenant: str) -> Path:
        return self._folder / f"{tenant}.key"

    def _key(self, tenant: str) -> bytes:
        path = self._path(tenant)
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            raise unavailable("the tenant's key is not here", path) from None
        if len(key) != KEY:
            raise unavailable("the tenant's key is damaged" if key else "the tenant's key was destroyed", path)
        return key


class ProgramKeys(KeyHolder):
    """Keys that a program asks for: `PROGRAM wrap|unwrap|destroy TENANT`, a key's bytes on its stdin and stdout."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def wrap(self, tenant: str, key: bytes) -> bytes:
        """See `KeyHolder.wrap`."""
        return self._asked("wrap", tenant, key)

    def unwrap(self, tenant: str, sealed: bytes) -> bytes:
        """See `KeyHolder.unwrap`."""
        key = self._asked("unwrap", tenant, sealed)
        if len(key) != KEY:
            raise unavailable(f"the program of keys gave {len(key)} bytes for a key, not {KEY}", self._program)
        return key

    def destroy(self, tenant: str) -> None:
        """See `KeyHolder.destroy`."""
        self._asked("destroy", tenant, b"")

    def _asked(self, what: str, tenant: str, given: bytes) -> bytes:
        ask = [str(self._program), what, tenant]
        try:
            done = subprocess.run(ask, input=given, capture_output=True, timeout=ANSWERS_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise unavailable(f"the program of keys did not {what} {tenant}'s", f"{error}"[:300]) from None
        if done.returncode or len(done.stdout) > _MOST or (what != "destroy" and not done.stdout):
            said = done.stderr.decode(errors="replace").strip()[-300:]
            raise unavailable(f"the program of keys did not {what} {tenant}'s", f"exit {done.returncode}: {said}")
        return done.stdout


def shred(path: Path) -> None:
    """Overwrites a file and leaves it empty, durably. What a disk or a snapshot keeps underneath is not reached."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, bytes(os.fstat(fd).st_size), 0)
        os.fsync(fd)
        os.ftruncate(fd, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    fsync_folder(path.parent)


def unavailable(title: str, where: object) -> BadArtifact:
    """The error of a key that cannot be had."""
    fix = "start the hub with the keys that it had (loradeck hub run --keys, --key-program); see docs/data.md"
    return BadArtifact("key_unavailable", title, str(where), fix)
