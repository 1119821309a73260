"""Adapters in folders that are named by their digest, and whether the files in one are those that it names.

`DIGEST/` holds an adapter's files, and `DIGEST.json` beside it is the manifest whose canonical JSON has that SHA-256.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


class WrongFiles(Exception):
    """The files are not those that the folder's name stands for."""


Stamp = tuple[int, int, int, int]
"""What changes when a file is written or replaced: inode, size, times of change in ns."""


def verify(folder: Path) -> Mapping[Path, Stamp]:
    """Compares an adapter's files with the digest that their folder is named by. Returns the stamps they had before.

    Raises:
        WrongFiles: a file or the manifest is not what the digest names, or there is one more or less.
        OSError: they cannot be read.
    """
    raw = folder.with_name(f"{folder.name}.json").read_bytes()
    try:
        manifest = json.loads(raw)
        canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        named = {str(entry["path"]): str(entry["sha256"]) for entry in manifest["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise WrongFiles(f"the manifest of {folder} cannot be read: {error!r}") from error
    if hashlib.sha256(canonical.encode()).hexdigest() != folder.name:
        raise WrongFiles(f"the manifest beside {folder} has another digest than the folder's name")
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    if there != named.keys():
        raise WrongFiles(f"{folder} and its manifest differ in {', '.join(sorted(there ^ named.keys())[:3])}")
    stamps = {}
    for name, digest in named.items():
        path = folder / name
        stamps[path] = stamp(path)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise WrongFiles(f"{path} is not the file of its manifest")
    return stamps


def stamp(path: Path) -> Stamp:
    """What changes when this file is written or replaced. Raises OSError."""
    is_ = path.stat()
    return (is_.st_ino, is_.st_size, is_.st_mtime_ns, is_.st_ctime_ns)


def check_unchanged(stamps: Mapping[Path, Stamp]) -> None:
    """Raises WrongFiles where a file was written or replaced since it was compared."""
    for path, before in stamps.items():
        if stamp(path) != before:
            raise WrongFiles(f"{path} was changed while it was read")
