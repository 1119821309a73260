"""A restore drill: what a backup would bring back, tried in a folder that is removed afterwards."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loradeck.artifacts.blobs.folder import FolderBlobs
from loradeck.artifacts.blobs.store import SEALED_HEAD, SEALED_MARK, Blobs
from loradeck.store.interface import Doc, StoreError
from loradeck.store.opening import verified
from loradeck.store.sqlite import SqliteStore

FILES_OF = (Doc.ADAPTER, Doc.DATASET, Doc.SUITE)
"""Documents whose files are at the hub."""


@dataclass(frozen=True, kw_only=True)
class Drilled:
    """What a backup holds: the log up to `rev`, and `files` that it names, of which some are `missing` beside it."""

    rev: int
    hash: str
    files: int
    missing: tuple[str, ...]


def drill(backup: Path) -> Drilled:
    """Restores a copy of a backup, and verifies the log's chain, what it folds to, the audit trail, and that the blobs
    that it names lie in `artifacts/` beside it.

    Raises: StoreError: it cannot be opened, or a check of the database failed.
    """
    if not backup.is_file():
        raise StoreError(f"there is no backup at {backup}")
    with TemporaryDirectory(prefix="loradeck-drill-") as folder:
        copy = Path(folder) / "hub.db"
        shutil.copyfile(backup, copy)
        with closing(SqliteStore(copy)) as store:
            report = verified(store, str(backup))
            named = {file["sha256"] for kind in FILES_OF for doc in store.registry(kind) for file in _files(doc.body)}
    beside = backup.parent / "artifacts"
    there = set(_lying(FolderBlobs(beside), named)) if beside.is_dir() else set[str]()
    return Drilled(rev=report.rev, hash=report.hash, files=len(named), missing=tuple(sorted(named - there)))


def _lying(blobs: Blobs, named: set[str]) -> Iterator[str]:
    """The blobs that lie in a store, those that lie there sealed too; whether there are keys for these is not known."""
    for sha256 in blobs.listed():
        head = b"" if sha256 in named else next(blobs.open(sha256, 0, SEALED_HEAD), b"")
        yield head[len(SEALED_MARK) :].hex() if head.startswith(SEALED_MARK) else sha256


def _files(body: dict[str, Any]) -> list[dict[str, str]]:
    return list(body.get("manifest", body)["files"])
