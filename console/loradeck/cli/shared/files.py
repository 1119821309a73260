"""Local files: what becomes an artifact is read, checked and hashed before anything is sent; secrets are 0600."""

import contextlib
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from loradeck.cli.shared.exits import misused
from loradeck.client.api import HubApi
from loradeck.client.blobs import sha256_of, upload
from loradeck.client.setting_errors import setting_errors
from loradeck.schemas.dataset_ledger import NameModels
from loradeck.schemas.manifest import FileEntry

M = TypeVar("M", bound=BaseModel)

LONGEST_ROW = 1 << 20
"""Longest JSONL row, in bytes."""


def entry_of(path: Path, name: str | None = None) -> FileEntry:
    """A file's entry in a manifest, under its own name unless another is given.

    Raises: CliError: the file cannot be read.
    """
    try:
        sha256, size = sha256_of(path)
    except OSError as error:
        raise misused("the file cannot be read", where=f"{path}: {error.strerror}", fix="name another") from None
    return checked(FileEntry, {"path": name or path.name, "size": size, "sha256": sha256}, where=str(path))


Needed = Sequence[str] | Callable[[dict[str, Any]], Sequence[str]]
"""Fields that a row needs, or a function that gives them by the row."""


def rows_of(path: Path, needed: Needed) -> Iterator[dict[str, Any]]:
    """Yields the rows of a JSONL file, each an object with the needed fields.

    Raises: CliError: with the line that is wrong.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}, line {number}"
                if len(line) > LONGEST_ROW:
                    raise misused("a row is too long", where=where, fix=f"at most {LONGEST_ROW:,} bytes")
                try:
                    row = json.loads(line)
                except (UnicodeDecodeError, json.JSONDecodeError) as error:
                    raise misused(
                        "a row is not JSON", where=f"{where}: {error}", fix="one JSON object a line"
                    ) from None
                if not isinstance(row, dict):
                    raise misused("a row is not a JSON object", where=where, fix="one JSON object a line")
                fields = needed(row) if callable(needed) else needed
                missing = [key for key in fields if not _filled(row.get(key))]
                if missing:
                    raise misused(f"a row has no {missing[0]!r}", where=where, fix=f"this row has: {', '.join(fields)}")
                yield row
    except OSError as error:
        raise misused("the file cannot be read", where=f"{path}: {error.strerror}", fix="name another") from None


def toml_of(path: Path) -> dict[str, Any]:
    """Reads a TOML file. Raises: CliError: it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise misused("the file cannot be read as TOML", where=f"{path}: {error}", fix="correct it") from None


def name_models(path: Path) -> NameModels:
    """Reads the models that look for names in rows. Raises: CliError: it is not TOML, or says something else."""
    return checked(NameModels, toml_of(path), where=str(path), file=path, fix="see Names in docs/data.md")


def text_of(path: Path) -> str:
    """Reads a text file. Raises: CliError: it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise misused("the file cannot be read", where=f"{path}: {error}", fix="name another") from None


def json_of(path: Path) -> Any:
    """Reads a JSON file. Raises: CliError: it is missing or not JSON."""
    try:
        return json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise misused("the file is not JSON", where=f"{path}: {error}", fix="correct it") from None


def checked(kind: type[M], data: Any, *, where: str, file: Path | None = None, fix: str = "") -> M:
    """Validates `data` as a document of a kind.

    Args:
        where: the place that the error names.
        file: the TOML file of the settings, whose lines are named.
        fix: what to do about it; by default to correct it.

    Raises: CliError: with the settings that are wrong.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        wrong = setting_errors(error, text_of(file) if file is not None else "", kind=kind)
        code = "path_traversal" if any("leaves the artifact's folder" in one for one in wrong) else "usage"
        fix = fix or "correct it; docs/cli.md shows an example"
        raise misused("; ".join(wrong[:5]), where=where, fix=fix, code=code) from None


async def upload_all(api: HubApi, folder: Path, entries: Sequence[FileEntry]) -> None:
    """Uploads files of a folder, except those that the hub has. Raises as `client.blobs.upload` does."""
    for entry in entries:
        await upload(api, folder / entry.path)


def _filled(value: Any) -> bool:
    return value is not None and value != ""


def write_new(path: Path, text: str) -> None:
    """Writes a new file that only this user can read. Raises: CliError: the file exists, or the disk refuses."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise misused("the file exists already", where=str(path), fix="name another one") from None
    except OSError as error:
        raise misused("the file cannot be written", where=str(path), fix=error.strerror or "") from None


@contextlib.contextmanager
def new_secret_file(path: Path) -> Iterator[Callable[[str], None]]:
    """Creates a new file (0600) and yields a function that writes the secret into it, durably.

    The file is created before the hub is asked for a secret, so that none is lost for want of it.

    Raises: CliError: it exists or cannot be created; nothing was asked of the hub.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise misused("this file exists already", where=str(path), fix="name a new file, or remove it") from None
    except OSError as error:
        raise misused("the file cannot be created", where=f"{path}: {error.strerror}", fix="name another") from None

    def write(secret: str) -> None:
        os.write(file, secret.encode() + b"\n")
        os.fsync(file)

    try:
        yield write
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
