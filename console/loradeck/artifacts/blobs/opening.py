"""Which store holds a hub's blobs, and the copying of blobs from one to another."""

import logging
from pathlib import Path

from loradeck.artifacts.blobs.folder import FolderBlobs
from loradeck.artifacts.blobs.store import Blobs
from loradeck.artifacts.errors import BadArtifact

log = logging.getLogger(__name__)


def open_blobs(url: str | None, folder: Path) -> Blobs:
    """The blobs of a hub: in an object store, or without a URL in a folder. The store is probed.

    One that does not answer is taken all the same, so that the hub can move pointers; it is probed before anything is
    written.

    `folder`: of the blobs, or for content on its way.

    Raises:
        BadArtifact: `store_lies`, `bad_store`.
        ModuleNotFoundError: obstore is not installed.
    """
    if url is None:
        return FolderBlobs(folder)
    from loradeck.artifacts.blobs.object_store import opened
    from loradeck.artifacts.blobs.objects import ObjectBlobs

    blobs = ObjectBlobs(opened(url), folder, probed=opened(url, retry_s=3))
    try:
        blobs.prove()
    except BadArtifact as bad:
        if bad.code != "store_unavailable":
            raise
        log.error("no file can be read or stored until the object store answers: %s", bad)
    return blobs


def copy(source: Blobs, target: Blobs) -> tuple[int, int]:
    """Copies the blobs that the target lacks, each verified. Returns their number and bytes.

    Raises: BadArtifact: `digest_mismatch`, a blob is damaged; `disk_full`, `store_unavailable`. What was copied stays.
    """
    there = target.listed()
    lacking = {sha256: size for sha256, size in source.listed().items() if there.get(sha256) != size}
    for sha256, size in lacking.items():
        with target.receive(sha256, size=size) as incoming:
            for chunk in source.open(sha256):
                incoming.write(chunk)
            incoming.keep()
    return len(lacking), sum(lacking.values())
