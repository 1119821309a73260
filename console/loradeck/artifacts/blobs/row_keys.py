"""The keys of rows and texts, in a folder that is in no backup, and who holds those of the tenants.

FOLDER/tenants/TENANT.key    a tenant's key, unless a program holds them; empty: destroyed
FOLDER/versions/DIGEST       the key of a version of a dataset or suite, wrapped by its tenant's; empty: destroyed
FOLDER/versions/texts.TENANT.DAY.HUB    likewise of a day's texts that a process of a hub has sealed; then 32 bytes for
                             each of them, without which it has no key. Zeros: destroyed
FOLDER/blobs/SHA256          where a blob lies sealed, and its key, wrapped by that of each version
FOLDER/erasures.jsonl        every erasure that was carried out: see `hub.data.erasure_list`
FOLDER/offboarded.json       the names of tenants that were offboarded, likewise
FOLDER/revoked.json          digests of the tokens and keys that were revoked: see `hub.recovery.revocations`
FOLDER/id                    of which database it is, and where it was made; the database has the same text

The folder may lie on another machine. What does not answer in `ANSWER_S` is given up, so that nobody waits for it.
"""

import hashlib
import logging
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nacl.encoding import Base64Encoder
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from pydantic import ValidationError

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.staging import fsync_folder, private_folder, replace_durably
from loradeck.schemas.ids import Strict

log = logging.getLogger("loradeck.artifacts.blobs.row_keys")

KEY = SecretBox.KEY_SIZE
"""Bytes of a key."""

ARRIVED = "_arrived"
"""Stands for the version and the tenant of rows that nobody has registered yet. No tenant can have this name."""

KeyHolder = Callable[[str, str, bytes], bytes]
"""Has the tenants' keys. It is called with a verb, a tenant and bytes. All may take long.

`wrap`, a key: the same under the tenant's key, which is made at its first use. `unwrap`: back. `destroy`: ends the
tenant's for ever; once more changes nothing. Raises: BadArtifact: `key_unavailable`.
"""

ANSWERS_S = 30
"""Seconds that a program may take for one key."""

REMEMBERED_DAYS = 400
"""Days for which it stays known that the key of a day's texts was destroyed, and is not just missing."""


ANSWER_S, START_S = 10.0, 1.0
"""Seconds that the folder may take for one file, and at a start, which R waits for."""

HUNG = 4
"""Calls on the folder that have not come back, from which on no other is made: each holds a thread."""

OWN = "in the hub's own data"
"""How the id of a folder ends that no other hub can have."""

T = TypeVar("T")


def in_folder(folder: Path, verb: str, tenant: str, given: bytes) -> bytes:
    """Holds tenants' keys in files of a folder: see `KeyHolder`."""
    path = folder / f"{tenant}.key"
    if verb == "destroy":
        shred(path)
        return b""
    if verb == "wrap" and not path.exists():
        _write(path, os.urandom(KEY), once=True)
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
    """The keys in a folder. Several threads may use it. `program` holds the tenants' keys; None: the folder does.

    `own`: it lies in the data of one hub, and no other can have it.
    """

    def __init__(self, folder: Path, program: Path | None = None, *, own: bool = False) -> None:
        self._own, self.folder, self._versions, self._blobs = own, folder, folder / "versions", folder / "blobs"
        self.erasures, self.offboarded = folder / "erasures.jsonl", folder / "offboarded.json"
        self.revoked = folder / "revoked.json"
        self._turn, self._mine = threading.Lock(), secrets.token_hex(4)
        self.refused: BadArtifact | None = None
        """Why nothing is done here: the folder is another database's."""
        self._hung: set[Future[Any]] = set()
        try:
            for inner in (self._versions, self._blobs, folder / "tenants"):
                self.do(partial(private_folder, inner), START_S)
        except (OSError, BadArtifact) as error:  # R has to work without rows
            log.error("no rows can be read or sealed: the folder of their keys cannot be used: %s", error)
        held: KeyHolder = lambda *asked: self.do(partial(in_folder, folder / "tenants", *asked))  # noqa: E731
        self._ask = partial(by_program, program) if program else held

    def do(self, call: Callable[[], T], wait_s: float | None = None) -> T:
        """Makes a call on the folder, on a thread of its own: on a mount whose server is gone it may never end.

        Nor can such a thread be ended: a pool would wait for it when the hub ends, and workers that outlive their call
        would have to be replaced, counted and closed. A thread costs 0.1 to 0.2 ms.

        Raises: what the call raises; BadArtifact `key_unavailable`: no answer, or the folder is another database's.
        """
        if self.refused is not None:
            raise self.refused
        done: Future[T] = Future()

        def make() -> None:
            try:
                done.set_result(call())
            except BaseException as error:
                done.set_exception(error)

        if len(self._hung) < HUNG:
            threading.Thread(target=make, name="keys", daemon=True).start()
            try:
                return done.result(ANSWER_S if wait_s is None else wait_s)
            except TimeoutError:  # also of the file system itself
                if not done.done():
                    self._hung.add(done)
                    done.add_done_callback(self._hung.discard)
        raise unavailable("the folder of keys does not answer", self.folder)

    def claim(self, log_id: str, kept: str | None, *, make: bool = True) -> str | None:
        """Returns the folder's id, which the database of a log keeps (`kept`; None: none yet); None: it has none.

        `make`: give it one where it needs one. A folder in the hub's own data is nobody else's: whatever database lies
        there goes on with it. Raises: OSError; BadArtifact: `key_unavailable`; `other_keys`, it is another database's,
        and nothing is done in it from then on.
        """
        path, place = self.folder / "id", OWN if self._own else f"{socket.gethostname()}:{self.folder.absolute()}"
        found = self.do(lambda: path.read_text() if path.exists() else None, None if make else START_S)
        if found is not None and (found == kept or (kept is None and found.split(" ")[0] == log_id)):
            return found
        if (self._own and (kept is None or kept.endswith(OWN))) or (kept is None and found is None):
            if make:
                if kept is not None:
                    log.error("the keys that this database had are lost: rows from before stay unreadable")
                made = f"{log_id} {secrets.token_hex(4)} {place}"
                self.do(lambda: replace_durably(path, made.encode(), once=not self._own))
                return self.claim(log_id, made if self._own else None)
            return found
        self.refused = BadArtifact(
            "other_keys",
            "this folder of keys is not the one of this database",
            f"{path} says {found or 'nothing'!r}, the database {kept or f'its log {log_id} and no folder'!r}",
            "give the right one with --keys. Where that is lost for ever, write what the database says into the file "
            "id, or remove that file if the database names no folder: rows under other keys stay unreadable",
        )
        raise self.refused

    def blob(self, sha256: str) -> SealedBlob | None:
        """Reads the record of a blob; None: it was never sealed. Raises: BadArtifact `key_unavailable`: damaged."""
        path = self._blobs / sha256
        try:
            return SealedBlob.model_validate_json(self.do(path.read_bytes))
        except OSError:
            return None
        except ValidationError:
            raise unavailable("the record of a sealed file is damaged", path) from None

    def blobs(self) -> Iterator[tuple[str, SealedBlob]]:
        """Yields the digest and the record of every blob that is or was sealed."""
        for path in self.do(lambda: sorted(self._blobs.glob("[0-9a-f]*"))):
            if (found := self.blob(path.name)) is not None:
                yield path.name, found

    def came_again(self, sha256: str) -> None:
        """Notes that a blob that is sealed has been sent again: see `arrived`."""
        self.do((self._blobs / sha256).touch)

    def keep(self, sha256: str, blob: SealedBlob) -> None:
        """Writes the record of a blob."""
        self.do(partial(_write, self._blobs / sha256, blob.model_dump_json().encode()))

    def wrap(self, version: str, tenant: str, key: bytes) -> str:
        """Wraps a blob's key by that of a version of a tenant's, which is made at its first use."""
        with self._turn:
            return SecretBox(self._made(version, tenant)).encrypt(key).hex()

    def arrived(self, before_s: float) -> list[str]:
        """Lists the blobs of rows that nobody has registered, and that came last before a time, seconds since 1970."""
        waiting = [sha256 for sha256, blob in self.blobs() if blob.keys.keys() == {ARRIVED}]
        return self.do(lambda: [one for one in waiting if (self._blobs / one).stat().st_mtime < before_s])

    def alive(self, blob: SealedBlob) -> list[str]:
        """Lists the versions by whose keys a blob can be read."""
        return [version for version in blob.keys if self._version(version)]

    def is_lost(self, blob: SealedBlob) -> bool:
        """Tells whether all keys by which a blob can be read were destroyed. One that is missing may come back."""
        return bool(blob.keys) and all(map(self._destroyed, blob.keys))

    def key(self, sha256: str, blob: SealedBlob) -> bytes:
        """Unwraps a blob's key. Raises: BadArtifact: `key_unavailable`."""
        trouble = unavailable("the keys of this file of rows were destroyed, or are not here", self._blobs / sha256)
        for version in self.alive(blob):
            try:
                return SecretBox(self._key(version)).decrypt(bytes.fromhex(blob.keys[version]))
            except BadArtifact as bad:
                trouble = bad
            except (CryptoError, ValueError):
                trouble = unavailable("the key of this file of rows is another one", self._versions / version)
        raise trouble

    def destroy(self, versions: Collection[str], tenants: Collection[str] = ()) -> None:
        """Destroys the keys of versions, and of tenants with their versions, for ever; none is made for them again."""
        names = self.do(lambda: sorted(path.name for path in self._versions.iterdir())) if tenants else []
        stated = ((name, self._version(name)) for name in names)
        with self._turn:
            for version in (*versions, *(name for name, found in stated if found and found[0] in tenants)):
                self.do(partial(shred, self._versions / version))
            for tenant in tenants:
                self._ask("destroy", tenant, b"")

    def seal_texts(self, tenant: str, day: int, texts: Sequence[str]) -> list[str]:
        """Seals texts of one day (since 1970) of a tenant's, each under a key of its own, for `open_texts`.

        That follows from the day's key and from 32 bytes of its own: whichever goes first ends it. Raises: BadArtifact
        `key_unavailable`.
        """
        version, parts = f"texts.{tenant}.{day}.{self._mine}", [os.urandom(KEY) for _ in texts]
        path = self._versions / version  # no other process appends to it
        with self._turn:
            key = self._made(version, tenant)
            first = self.do(partial(_append, path, b"".join(parts)))
        both = enumerate(zip(parts, texts, strict=True))
        sealed = ((n, _box(key, part).encrypt(text.encode(), encoder=Base64Encoder)) for n, (part, text) in both)
        return [f"{version}:{first + n * KEY}:{text.decode()}" for n, text in sealed]

    def open_texts(self, sealed: Iterable[str]) -> dict[str, str]:
        """Opens sealed texts, without those whose keys were destroyed. Raises: BadArtifact: `key_unavailable`."""
        files, found = dict[str, tuple[bytes, bytes]](), dict[str, str]()
        for one in sealed:
            version, at, text = one.split(":")
            path = self._versions / version
            try:
                if version not in files:
                    files[version] = self.do(path.read_bytes), b"" if self._destroyed(version) else self._key(version)
                data, key = files[version]
                if key and (part := data[int(at) : int(at) + KEY]) != bytes(KEY):
                    found[one] = _box(key, part).decrypt(text.encode(), encoder=Base64Encoder).decode()
            except (OSError, CryptoError):
                raise unavailable("the key of a text is not here, or is another one", path) from None
        return found

    def destroy_texts(self, sealed: Iterable[str]) -> None:
        """Destroys the keys of single texts for ever. Raises: BadArtifact: `key_unavailable`: they are not here."""
        for version, at, _ in (one.split(":") for one in sealed):
            self.do(partial(_zero, self._versions / version, int(at)))

    def expire_texts(self, before: Mapping[str, int]) -> None:
        """Destroys the keys of tenants' texts of before a day (since 1970), by tenant."""
        for path in self.do(lambda: sorted(self._versions.glob("texts.*"))):
            tenant, day, _ = path.name.removeprefix("texts.").rsplit(".", 2)
            if (over := before.get(tenant, 0) - int(day)) > 0 and self.do(path.stat).st_size:
                self.do(partial(shred, path))
                self._mine = secrets.token_hex(4)  # for who keeps texts for longer from now on
            elif over > REMEMBERED_DAYS:
                self.do(path.unlink)

    def _made(self, version: str, tenant: str) -> bytes:
        """The key of a version of a tenant's, which is made at its first use."""
        path = self._versions / version
        if not self.do(path.exists):
            for other in self.do(lambda: sorted(self._versions.glob(f"texts.{tenant}.*"))):
                if (found := self._version(other.name)) and found[0] == tenant:
                    self._key(other.name)  # a tenant's key that is only missing is not made anew
                    break
            made = f"{tenant} {self._ask('wrap', tenant, os.urandom(KEY)).hex()}\n"
            self.do(partial(_write, path, made.encode(), once=True))
        return self._key(version)

    def _key(self, version: str) -> bytes:
        if (found := self._version(version)) is None:
            raise unavailable("the key of these rows was destroyed, or is not here", self._versions / version)
        return self._ask("unwrap", found[0], found[1])

    def _destroyed(self, version: str) -> bool:
        """Tells whether the key of a version was destroyed, perhaps in a crash. One that is not here may come back."""
        path = self._versions / version
        return self.do(lambda: path.exists() and not any(path.read_bytes()))

    def _version(self, version: str) -> tuple[str, bytes] | None:
        """Reads a version's tenant and wrapped key; None: it was destroyed, perhaps in a crash, or is not here."""
        try:
            tenant, key = self.do((self._versions / version).read_bytes).partition(b"\n")[0].decode().split()
            return tenant, bytes.fromhex(key)
        except (OSError, ValueError):
            return None


def _box(key: bytes, part: bytes) -> SecretBox:
    return SecretBox(hashlib.blake2b(part, key=key, digest_size=KEY).digest())


def _write(path: Path, data: bytes, *, once: bool = False) -> None:
    with _writing(path):
        replace_durably(path, data, once=once)


def _append(path: Path, data: bytes) -> int:
    """Appends to a file, durably, and says where that begins."""
    with _writing(path), path.open("ab") as file:
        first = file.tell()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return first


def _zero(path: Path, at: int) -> None:
    with _writing(path), path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), bytes(KEY), at)
        os.fsync(file.fileno())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
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
