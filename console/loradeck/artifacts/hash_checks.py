"""Hashes of files, and their comparison with what a manifest or a sender announced: on the hub and on nodes alike."""

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from loradeck.artifacts.errors import BadArtifact
from loradeck.schemas.manifest import FileEntry

Hasher = Callable[[Path], str]
"""Computes the SHA-256 (hex) of a file."""


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(computed: str, announced: str) -> None:
    """Checks a received file's SHA-256 (hex) against the announced one. Raises: BadArtifact: `digest_mismatch`."""
    if computed != announced:
        raise BadArtifact(
            "digest_mismatch",
            "the content does not match its digest",
            f"sha256 {computed}, not {announced}",
            "send the file that the digest was computed from",
        )


def plain_files(folder: Path) -> list[Path]:
    """Paths of all files under a folder, sorted. Raises: BadArtifact: `path_traversal`: of a link, socket or device."""
    found = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise BadArtifact(
                    "path_traversal",
                    "an artifact holds plain files only",
                    f"{path.relative_to(folder)} is {'a link' if stat.S_ISLNK(mode) else 'not a plain file'}",
                    "put a copy of the file in its place",
                )
            if stat.S_ISREG(mode):
                found.append(path)
    return sorted(found)


def differences(files: Iterable[FileEntry], folder: Path, *, beside: Collection[str] = ()) -> list[str]:
    """Lists every difference between a manifest's files and a folder, by path, as `PATH: extra`; empty: none.

    `beside`: paths that may lie in the folder without being listed.

    Raises: BadArtifact: `path_traversal`: the folder holds a link or something else that is not a plain file.
    """
    listed = {entry.path: entry for entry in files}
    found = {path.relative_to(folder).as_posix(): path for path in plain_files(folder)}
    result = []
    for name in sorted(listed.keys() | found.keys() - set(beside)):
        if name not in found:
            result.append(f"{name}: missing")
        elif name not in listed:
            result.append(f"{name}: extra")
        elif (size := found[name].stat().st_size) != listed[name].size:
            result.append(f"{name}: size ({size} bytes, not {listed[name].size})")
        elif (digest := sha256_of(found[name])) != listed[name].sha256:
            result.append(f"{name}: digest (sha256 {digest}, not {listed[name].sha256})")
    return result


def verify_folder(files: Iterable[FileEntry], folder: Path, *, beside: Collection[str] = ()) -> None:
    """Checks that a folder holds exactly the manifest's files; see `differences`.

    Raises: BadArtifact: `manifest_mismatch`, with every difference; `path_traversal`.
    """
    found = differences(files, folder, beside=beside)
    if found:
        raise BadArtifact(
            "manifest_mismatch",
            "the files differ from the manifest",
            "; ".join(found),
            "fetch or make the artifact again; never edit one",
        )


def _raise(error: OSError) -> None:
    raise error
