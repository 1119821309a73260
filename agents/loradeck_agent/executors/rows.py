"""Rows to train on and items to score: JSONL files, read whole and checked line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.suite_items import items_in
from loradeck.schemas.ids import Digest
from loradeck.schemas.manifest import SuiteManifest
from loradeck.schemas.suite import SuiteItem
from loradeck_agent.executors.protocol import BadSpec

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Row:
    """One example. `where` names its file and line."""

    where: str
    prompt: Conversation
    answer: str


@dataclass(frozen=True)
class Suite:
    items: tuple[SuiteItem, ...]
    answer_schema: dict[str, Any] | None


def read_rows(path: Path) -> list[Row]:
    """The rows of a dataset: a JSONL file, or a folder with such files.

    A row is `{"prompt": text, "answer": text}` or `{"messages": [...]}` that ends with the assistant's answer.

    Raises:
        BadSpec: `bad_data`, with file and line.
    """
    rows = [Row(where, *_example(where, line)) for where, line in json_lines(path)]
    if not rows:
        raise BadSpec("bad_data", f"{path.name} holds no rows")
    return rows


def read_suite(path: Path, digest: Digest) -> Suite:
    """The items of a suite and the schema its answers must satisfy, which its `manifest.json` carries.

    Raises:
        BadSpec: `bad_data`, with file and line; `manifest_mismatch`, the manifest is another suite's.
    """
    files = (
        {str(file.relative_to(path)): file for file in path.rglob("*.jsonl")} if path.is_dir() else {path.name: path}
    )
    try:
        items = items_in(files)
    except BadArtifact as error:
        raise BadSpec("bad_data", f"{error.detail}: {error.title}") from error
    except OSError as error:
        raise BadSpec("bad_data", f"{path.name} cannot be read: {error}") from error
    return Suite(tuple(items), _answer_schema(path, digest))


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


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSONL file, or of the JSONL files in a folder, with its file and line.

    Raises:
        BadSpec: `bad_data`, with file and line.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    for file in files:
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadSpec("bad_data", f"{file.name} cannot be read: {error}") from error
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            where = f"{file.name}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadSpec("bad_data", f"{where}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise BadSpec("bad_data", f"{where}: not a JSON object")
            yield where, row


def _example(where: str, row: dict[str, Any]) -> tuple[Conversation, str]:
    """The conversation up to the answer, and the answer."""
    if "messages" in row:
        messages = row["messages"]
        ok = isinstance(messages, list) and len(messages) > 1 and all(_is_message(message) for message in messages)
        if not ok or messages[-1]["role"] != "assistant":
            raise BadSpec(
                "bad_data", f"{where}: messages must be {{role, content}} and end with the assistant's answer"
            )
        prompt, answer = [dict(message) for message in messages[:-1]], messages[-1]["content"]
    else:
        text, answer = row.get("prompt"), row.get("answer")
        if not isinstance(text, str) or not text:
            raise BadSpec("bad_data", f"{where}: needs a prompt, as text")
        prompt = [{"role": "user", "content": text}]
    if not isinstance(answer, str) or not answer:
        raise BadSpec("bad_data", f"{where}: needs an answer, as text")
    return prompt, answer


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
