"""BadArtifact, the exception of this package."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from loradeck.schemas.fault import Fault


class BadArtifact(Fault):
    """Reports an artifact that is wrong or could not be stored. Whatever was trusted before is unchanged.

    `code` is stable and goes on the wire: pickle_in_adapter, truncated_safetensors, bad_safetensors, manifest_mismatch,
    path_traversal, wrong_base, unsupported_adapter, bad_values, digest_mismatch, too_large, unknown_blob, bad_artifact,
    disk_full, exists; for bundles: truncated_bundle, bad_bundle, bad_gguf; for rows: bad_rows, ledger_incomplete,
    erased_row, bad_judgements, not_as_built, key_unavailable, other_keys, names_unavailable, model_differs; of keys:
    bad_signature, key_exposed, key_exists, bad_key, signing_unavailable; for the answer ledger: bad_segment.
    """

    def __str__(self) -> str:
        return ": ".join(part for part in (self.title, self.detail) if part)


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, an exhausted quota, and a file above the largest allowed size."""


@contextmanager
def room_on(where: object) -> Iterator[None]:
    """Turns the OSError of a full disk in the block into BadArtifact `disk_full`; `where` names the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise BadArtifact(
            "disk_full", "there is no room for the artifact", f"{where}: nothing was kept", "make room and try again"
        ) from error
