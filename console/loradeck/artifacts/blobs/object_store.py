"""An object store (S3, Google Cloud Storage, Azure) through obstore: how it is opened, and a probe of it.

Credentials come from the environment, from the files that it names, or from the host's identity; see obstore's
documentation. A URL holds none, since arguments can be read in the list of processes.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.store import GCSStore, from_url

from loradeck.artifacts.errors import BadArtifact

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
