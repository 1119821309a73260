"""Readers of JSONL inputs: the rows of a dataset, and the items of a suite with its answer schema."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import UnknownType
from referencing import Registry
from referencing.exceptions import Unresolvable

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.rows.dataset_rows import rows_in
from loradeck.artifacts.rows.suite_items import harness_in, items_in
from loradeck.schemas.ids import Digest
from loradeck.schemas.manifest import SuiteManifest
from loradeck.schemas.suite import HarnessTask, SuiteItem
from loradeck_agent.executors.protocol import BadSpec

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Suite:
    """The items of an evaluation suite, and the JSON Schema of its answers, if it has one."""

    items: tuple[SuiteItem, ...]
    answer_schema: dict[str, Any] | None
    harness: HarnessTask | None = None
    """The task that has the items instead."""

    @property
    def questions(self) -> dict[str, str]:
        """The user's messages of each item, by the item's id."""
        return {
            item.id: "\n".join(message["content"] for message in item.prompt if message["role"] == "user")
            for item in self.items
        }


def read_suite(path: Path, digest: Digest) -> Suite:
    """Reads the items of a suite, and the answer schema that its `manifest.json` carries.

    Raises: BadSpec: `bad_data`, with file and line; `manifest_mismatch`: the manifest belongs to another suite than
    `digest`.
    """
    files = jsonl_in(path)
    with as_bad_data(path):
        items, task = items_in(files), harness_in(files)
    return Suite(tuple(items), _answer_schema(path, digest), task)


def check_schemas(suite: Suite) -> None:
    """Checks that every JSON Schema of the suite is valid; a broken one would make every answer valid, or none.

    Raises: BadSpec: `bad_data`, with the item's id.
    """
    for where, schema in [
        ("the suite", suite.answer_schema),
        *((f"item {item.id!r}", item.answer_schema) for item in suite.items),
        *((f"item {i.id!r}", t.get("function", t).get("parameters")) for i in suite.items for t in i.tools),
    ]:
        if schema is None:
            continue
        try:
            jsonschema.validators.validator_for(schema).check_schema(schema)
        except jsonschema.SchemaError as error:
            raise BadSpec("bad_data", f"{where}: its JSON Schema is invalid: {error.message}") from error


def _answer_schema(path: Path, digest: Digest) -> dict[str, Any] | None:
    manifest_path = path / "manifest.json"
    if not manifest_path.is_file():
        return None
    try:
        manifest = SuiteManifest.model_validate_json(manifest_path.read_bytes())
        schema = json.loads(manifest.answer_schema) if manifest.answer_schema else None
    except ValueError as error:
        raise BadSpec("bad_data", f"manifest.json of the suite cannot be read: {error}") from error
    if manifest.digest != digest:
        raise BadSpec("manifest_mismatch", f"the folder holds the suite {manifest.digest}, not {digest}")
    return schema


def jsonl_in(path: Path) -> dict[str, Path]:
    """Finds a JSONL file, or all JSONL files below a folder, by their names in it."""
    return {str(file.relative_to(path)): file for file in path.rglob("*.jsonl")} if path.is_dir() else {path.name: path}


@contextmanager
def as_bad_data(path: Path) -> Iterator[None]:
    """Turns what is wrong with a file of rows within the block into BadSpec `bad_data`."""
    try:
        yield
    except BadArtifact as error:
        raise BadSpec("bad_data", f"{error.detail}: {error.title}") from error
    except OSError as error:
        raise BadSpec("bad_data", f"{path.name} cannot be read: {error}") from error


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each object of a JSONL file, or of all JSONL files below a folder, with its place (file and line).

    Raises: BadSpec: `bad_data`, with file and line.
    """
    with as_bad_data(path):
        yield from rows_in(jsonl_in(path))


def violation(document: Any, schema: Mapping[str, Any]) -> jsonschema.ValidationError | None:
    """Finds the first violation of a schema by a document; None if there is none.

    Raises: BadSpec: `bad_data`: the schema cannot be used. One that refers elsewhere is never fetched.
    """
    try:
        checks = jsonschema.validators.validator_for(schema)(schema, registry=Registry())
        return next(checks.iter_errors(document), None)
    except (UnknownType, Unresolvable, RecursionError, re.error) as error:
        raise BadSpec("bad_data", f"the schema cannot be used: {type(error).__name__}: {error}"[:500]) from error
