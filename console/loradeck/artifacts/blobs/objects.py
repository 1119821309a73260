"""Blobs in an object store (S3, Google Cloud Storage, Azure) through obstore: how it is opened, probed and used.

Credentials come from the environment, from the files that it names, or from the host's identity; see obstore's
documentation. A URL holds none, since arguments can be read in the list of processes.

Content is received and verified on this machine's disk before it is sent to the store.
Each request to the store is repeated for a while by obstore. Uploads in parts appear when they are complete; what a
hub that was killed had sent of one is invisible, and goes by the bucket's rule for incomplete uploads.
"""

import hashlib
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.store import GCSStore, from_url

from loradeck.artifacts.blobs.store import KEY, Blobs, key, unknown
from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.hash_checks import check_digest

PART = 8 << 20
"""Bytes of one part of an upload, and of one read."""

PARTS = 4
"""Parts of an upload that are under way at once."""

PROBED = 12 << 20
"""Bytes of the probe's upload in parts."""

SCHEMES = ("s3", "gs", "az")


def opened(url: str, *, retry_s: float = 60) -> Any:
    """The store under a URL such as `s3://BUCKET/PREFIX`. Nothing is asked of it yet.

    `retry_s`: seconds for which a request that failed is repeated.

    Raises: BadArtifact: `bad_store`: it cannot be opened as it is configured.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise BadArtifact(
            "bad_store",
            "not the address of an object store",
            f"{parts.scheme}://{parts.hostname or ''}{parts.path}",
            "write s3://BUCKET/PREFIX, gs:// or az:// likewise; credentials belong into the environment",
        )
    config = {"checksum_algorithm": "SHA256"} if parts.scheme == "s3" else {}
    plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"  # as obstore has it where it is given no options
    options = {"connect_timeout": "3s", "timeout": "60s", "allow_http": plain}
    retries = {"max_retries": 8, "retry_timeout": timedelta(seconds=retry_s)}
    try:
        return from_url(url, config=config, client_options=options, retry_config=retries)
    except (BaseError, ValueError) as error:
        raise _unfit(error) from None


@contextmanager
def answered() -> Iterator[None]:
    """Turns the faults of a store in the block into BadArtifact `store_unavailable` or `bad_store`.

    That there is no such object stays a FileNotFoundError, and a condition that does not hold stays obstore's error.
    """
    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except GenericError as error:
        fix = "try again; nothing was changed"
        raise BadArtifact("store_unavailable", "the object store did not answer", _line(error), fix) from None
    except BaseError as error:
        raise _unfit(error) from None


def probe(store: Any) -> None:
    """Tries what Loradeck relies on, with objects of its own below `probe/` that it removes.

    Raises: BadArtifact: `store_lies`: the store does not keep what its protocol promises; `bad_store`: it refuses, or
    has no such bucket; `store_unavailable`.
    """
    name = f"probe/{secrets.token_hex(8)}"
    try:
        with answered():
            _conditions(store, name)
            _parts(store, f"{name}-parts")
            obstore.delete(store, name)
            with suppress(FileNotFoundError):
                obstore.head(store, name)
                raise _lie("a deleted object is still there")
    except FileNotFoundError as error:
        raise _unfit(error) from None
    finally:
        for left in (name, f"{name}-parts"):
            with suppress(FileNotFoundError, BaseError):
                obstore.delete(store, left)


def _conditions(store: Any, name: str) -> None:
    """Puts that a condition forbids. S3 and Azure name a version where a bucket keeps old ones, GCS always does."""
    first = obstore.put(store, name, b"first", mode="create")
    if not isinstance(store, GCSStore) and first["version"] not in (None, "null"):
        raise BadArtifact(
            "store_lies",
            "the bucket keeps what is deleted",
            "it has versions, and erased rows would stay in them",
            "take a bucket without versions",
        )
    with suppress(AlreadyExistsError):
        obstore.put(store, name, b"other", mode="create")
        raise _lie("an object was overwritten by a put that only creates (If-None-Match)")
    if bytes(obstore.get(store, name).bytes()) != b"first":
        raise _lie("a put that was refused has changed the object")
    obstore.put(store, name, b"second", mode={"e_tag": first["e_tag"]})
    with suppress(PreconditionError):
        obstore.put(store, name, b"third", mode={"e_tag": first["e_tag"]})
        raise _lie("an object was overwritten by a put for an older version of it (If-Match)")


def _parts(store: Any, name: str) -> None:
    """An upload in parts, read back."""
    sent, digest = os.urandom(PROBED), hashlib.sha256()
    obstore.put(store, name, sent, use_multipart=True, chunk_size=PROBED // 2, max_concurrency=PARTS)
    for start in range(0, PROBED, PART):
        digest.update(obstore.get_range(store, name, start=start, end=min(start + PART, PROBED)))
    if digest.digest() != hashlib.sha256(sent).digest():
        raise _lie("an upload in parts came back with other bytes")


def _lie(what: str) -> BadArtifact:
    return BadArtifact(
        "store_lies", "the object store does not keep its promises", what, "use another store or a newer version of it"
    )


def _unfit(error: Exception) -> BadArtifact:
    fix = "see the address, the bucket, and the credentials in the hub's environment"
    return BadArtifact("bad_store", "the object store cannot be used", _line(error), fix)


def _line(error: Exception) -> str:
    """Returns what an error of obstore says, without the structure that it prints below."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


SIGNED = timedelta(minutes=5)
"""How long a signed URL may be used."""


class ObjectBlobs(Blobs):
    """Blobs in a store of obstore's.

    Args:
        store: see `opened`.
        scratch: see `Blobs`. Only one process may use it.
        probed: the same store; the probe is made with this one, which should give up soon.
    """

    def __init__(self, store: Any, scratch: Path, *, probed: Any) -> None:
        super().__init__(scratch)
        self._store = store
        self._probed = probed
        self._proven = False
        self._proving = threading.Lock()

    def prove(self) -> None:
        """Probes the store unless that was done. Nothing is written before it has passed. Raises as `probe`."""
        with self._proving:
            if not self._proven:
                probe(self._probed)
                self._proven = True

    def size(self, sha256: str) -> int:
        """See `Blobs.size`."""
        try:
            with answered():
                return int(obstore.head(self._store, key(sha256))["size"])
        except FileNotFoundError:
            raise unknown(sha256) from None

    def open(self, sha256: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """See `Blobs.open`."""
        size = self.size(sha256)
        return self._read(sha256, start, size if stop is None else min(stop, size), size)

    def _read(self, sha256: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        digest = hashlib.sha256() if (start, stop) == (0, size) else None
        while start < stop:
            end = min(start + PART, stop)
            try:
                with answered():
                    chunk = bytes(obstore.get_range(self._store, key(sha256), start=start, end=end))
            except FileNotFoundError:
                raise unknown(sha256) from None
            if len(chunk) != end - start:
                raise BadArtifact("digest_mismatch", "the object store sent too little", sha256)
            if digest is not None:
                digest.update(chunk)
                if end == stop:
                    check_digest(digest.hexdigest(), sha256)
            yield chunk
            start = end

    def delete(self, sha256s: Iterable[str]) -> None:
        """See `Blobs.delete`."""
        for sha256 in sha256s:
            with suppress(FileNotFoundError), answered():
                obstore.delete(self._store, key(sha256))

    def listed(self) -> Mapping[str, int]:
        """See `Blobs.listed`."""
        with answered():
            every = (one for page in obstore.list(self._store) for one in page)
            return {found[2]: one["size"] for one in every if (found := KEY.fullmatch(one["path"]))}

    def signed(self, sha256: str) -> str | None:
        """See `Blobs.signed`."""
        try:
            return str(obstore.sign(self._store, "GET", key(sha256), SIGNED))
        except (BaseError, ValueError):  # a store or an identity that cannot sign
            return None

    def _keep(self, path: Path, sha256: str) -> None:
        self.prove()
        size, place = path.stat().st_size, key(sha256)
        with answered():
            if size <= PART:
                with suppress(AlreadyExistsError):
                    obstore.put(self._store, place, path, mode="create", use_multipart=False)
            elif not self.has(sha256):
                obstore.put(self._store, place, path, use_multipart=True, chunk_size=PART, max_concurrency=PARTS)
        if (kept := self.size(sha256)) != size:
            self.delete([sha256])
            raise BadArtifact("store_lies", "the object store kept another size", f"{sha256}: {kept}, not {size}")
