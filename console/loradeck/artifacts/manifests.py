"""Manifests of folders: the files in one, and the files that make up a base."""

import fnmatch
import json
import logging
import time
from pathlib import Path

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.hash_checks import Hasher, plain_files, sha256_of
from loradeck.artifacts.staging import private_folder, replace_durably
from loradeck.schemas.manifest import BaseManifest, FileEntry

log = logging.getLogger(__name__)

BASE_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
)
"""Files that decide a base's tokens. Other files in its folder (read-me, other formats) are not part of it."""

RACY_NS = 2_000_000_000
"""Files changed within this many nanoseconds are hashed again: a change within one clock tick would go unnoticed."""


def scan(folder: Path) -> tuple[FileEntry, ...]:
    """Entries (path, size, SHA-256) of every file under a folder, sorted by path.

    Raises: BadArtifact: `path_traversal`: the folder holds a link or something else that is not a plain file.
    """
    return tuple(_entry(folder, path, sha256_of) for path in plain_files(folder))


def base_manifest(folder: Path, model_id: str, revision: str, *, sha256: Hasher = sha256_of) -> BaseManifest:
    """Computes the manifest of a base model in a local folder.

    Links are followed: model caches consist of them, and a base never leaves its node.

    Raises: BadArtifact: `bad_artifact`: the folder holds no base in safetensors.
    """
    paths = base_files(folder)
    return BaseManifest(
        model_id=model_id, revision=revision, files=tuple(_entry(folder, path, sha256) for path in paths)
    )


def base_files(folder: Path) -> list[Path]:
    """Paths of the files in a folder that make up its base, sorted.

    Raises: BadArtifact: `bad_artifact`: there is no folder, or it lacks weights or a configuration.
    """
    if not folder.is_dir():
        raise BadArtifact("bad_artifact", "the folder does not exist", str(folder), "name the base model's folder")
    paths = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in BASE_FILES)
    ]
    names = {path.name for path in paths}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise BadArtifact(
            "bad_artifact",
            "the folder holds no base model in safetensors",
            f"{folder} needs config.json and *.safetensors",
            "convert the model to safetensors (save_pretrained does)",
        )
    return paths


def base_digest(folder: Path, *, cache: Path | None = None) -> str:
    """Digest of the base in a folder; see `base_here`."""
    return base_here(folder, cache=cache).digest


def base_here(folder: Path, *, cache: Path | None = None) -> BaseManifest:
    """Manifest of the base in a folder, without a name. Files unchanged since the last call are not read again.

    `cache`: file that keeps digests by path, size, inode and times; in the user's cache folder if None.

    Raises: BadArtifact: `bad_artifact`: see `base_files`.
    """
    from platformdirs import user_cache_path  # an agent, which counts its memory, never asks for it

    remembered = RememberedDigests(cache or Path(user_cache_path("loradeck")) / "digests.json")
    found = base_manifest(folder, "-", "-", sha256=remembered)
    remembered.save()
    return found


class RememberedDigests:
    """A cache of file digests by path, size, inode, mtime and ctime, in one JSON file (0600)."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._new: dict[str, str] = {}
        try:
            known = json.loads(file.read_text())
        except FileNotFoundError:
            known = {}
        except (OSError, ValueError) as error:
            log.warning("digests remembered in %s cannot be read and are computed again: %s", file, error)
            known = {}
        self._known: dict[str, str] = known if isinstance(known, dict) else {}

    def __call__(self, path: Path) -> str:
        """SHA-256 (hex) of a file."""
        key = _identity(path)
        if (known := self._known.get(key)) is not None:
            return known
        began_ns = time.time_ns()
        digest = sha256_of(path)
        changed_ns = path.stat().st_ctime_ns
        if _identity(path) == key and began_ns - changed_ns > RACY_NS:
            self._new[key] = digest
        return digest

    def save(self) -> None:
        """Writes the digests computed since the start; entries of files that are gone are dropped."""
        if not self._new:
            return
        kept = {key: value for key, value in self._known.items() if Path(key.rsplit("|", 1)[0]).exists()}
        private_folder(self._file.parent)
        replace_durably(self._file, json.dumps(kept | self._new, indent=1, sort_keys=True).encode())


def _identity(path: Path) -> str:
    found = path.stat()
    times = f"{found.st_mtime_ns}.{found.st_ctime_ns}"
    return f"{path.resolve()}|{found.st_size}.{found.st_dev}.{found.st_ino}.{times}"


def _entry(folder: Path, path: Path, sha256: Hasher) -> FileEntry:
    return FileEntry(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=sha256(path))
