"""The screen as a text file for the post-mortem."""

import os
from datetime import UTC, datetime
from pathlib import Path


def default_name(what: str, at_ms: int) -> Path:
    """`loradeck-tenants-20260304T031244Z.txt`, in the folder the console was started in."""
    return Path(f"loradeck-{what}-{datetime.fromtimestamp(at_ms / 1000, UTC):%Y%m%dT%H%M%SZ}.txt")


def save(path: Path, text: str) -> None:
    """Writes a new file that only this user can read. Raises: OSError; FileExistsError: it is left as it is."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
