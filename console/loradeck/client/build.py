"""Which build of Loradeck this is: builds of one version differ in their sources."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

SOURCES = frozenset({".py", ".sql"})


def build() -> str:
    """Twelve digits that name the installed sources of `loradeck` and `loradeck_agent`. Reads them all."""
    folders = []
    for package in ("loradeck", "loradeck_agent"):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent)
    return digest(folders)


def digest(folders: list[Path]) -> str:
    """The digest of the sources in some folders, by their names there and their content."""
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.suffix in SOURCES):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found.update(f"{folder.name}/{path.relative_to(folder)} {content}\n".encode())
    return found.hexdigest()[:12]
