"""Atomic publishing of results: staging folder, fsync, rename, fsync of the parent folder."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from loradeck.artifacts.adapters import MANIFEST
from loradeck_agent.host.state_folder import fsync_folder

M = TypeVar("M", bound=BaseModel)


def publish(out: Path, files: Mapping[str, bytes], manifest_of: Callable[[Path], M]) -> M:
    """Publishes `files` as the folder `out`, with the manifest that `manifest_of` makes of the staging folder.

    An `out` left by an earlier, interrupted attempt is replaced.

    Raises: OSError: the disk refused; `out` is as it was.
    """
    with staged(out) as staging:
        for name, data in files.items():
            write_file(staging / name, data)
        manifest = manifest_of(staging)
        write_document(staging / MANIFEST, manifest)
    return manifest


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yields an empty staging folder that becomes `out` durably on success, and is removed after any exception.

    An older `out` is replaced.

    Raises: OSError: the disk refused; `out` is as it was.
    """
    staging = out.with_name(f".{out.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700, parents=True)
    try:
        yield staging
        fsync_folder(staging)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
        fsync_folder(out.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def write_document(path: Path, document: BaseModel) -> None:
    """Writes a document as a new JSON file, durably. Raises: FileExistsError: the file exists."""
    write_file(path, document.model_dump_json(indent=1).encode() + b"\n")


def write_file(path: Path, data: bytes) -> None:
    """Writes a new file and syncs it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
