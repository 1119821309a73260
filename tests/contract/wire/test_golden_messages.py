"""Every message of the link and the feed, and what the router's table holds, byte for byte as it travels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError
from tests.contract.wire import golden

from loradeck.schemas.feed import FeedMessage
from loradeck.schemas.link import DownMessage, UpMessage, down_adapter, up_adapter

FILES: list[Path] = golden.files()
FILES_1: list[Path] = golden.files(golden.FOLDER_1)


def members(union: Any) -> set[type[BaseModel]]:
    return set(get_args(get_args(union)[0]))


def message_type(model: type[BaseModel]) -> str:
    return str(model.model_fields["type"].default)


@pytest.mark.parametrize("path", FILES, ids=golden.name_of)
def test_a_message_is_read_and_written_again_byte_for_byte(path: Path) -> None:
    raw = path.read_bytes()
    assert golden.written(golden.adapter_of(path).validate_json(raw)) == raw


@pytest.mark.parametrize(
    ("family", "union"), [("down", DownMessage), ("up", UpMessage), ("feed", FeedMessage)], ids=lambda v: str(v)[:8]
)
def test_every_message_type_has_a_golden_file(family: str, union: Any) -> None:
    here = {path.stem for path in FILES if path.parent.name == family}
    more = {
        "feed": {"show"},
        "up": {"ack_cold", "hello_cosigned", "report_shadow", "report_votes", "table_state_signed"},
        "down": {"desired_signed", "node_order_contested"},
    }
    extra = more.get(family, set())
    assert here == {message_type(model) for model in members(union)} | extra


@pytest.mark.parametrize("path", FILES, ids=golden.name_of)
def test_a_field_from_a_newer_version_is_ignored(path: Path) -> None:
    document = json.loads(path.read_bytes())
    adapter = golden.adapter_of(path)
    newer = json.dumps({**document, "field_of_tomorrow": {"a": 1}})
    assert adapter.validate_json(newer) == adapter.validate_python(document) == adapter.validate_json(path.read_bytes())


@pytest.mark.parametrize("path", FILES_1, ids=golden.name_of)
def test_a_message_of_version_1_is_read_and_nothing_in_it_is_lost(path: Path) -> None:
    document = json.loads(path.read_bytes())
    read = json.loads(golden.written(golden.adapter_of(path).validate_json(path.read_bytes())))
    assert _part(document, read) == document


def _part(wanted: Any, found: Any) -> Any:
    """The part of a document that another one has as well."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return {name: _part(value, found[name]) for name, value in wanted.items() if name in found}
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [_part(one, other) for one, other in zip(wanted, found, strict=True)]
    return found


@pytest.mark.parametrize("adapter", [down_adapter, up_adapter], ids=["down", "up"])
def test_an_unknown_type_is_refused(adapter: Any) -> None:
    with pytest.raises(ValidationError):
        adapter.validate_json('{"type": "no_such_message"}')


@pytest.mark.parametrize(
    ("family", "name", "field", "value"),
    [
        ("up", "hello", "node", "../etc"),
        ("up", "hello", "hash", "short"),
        ("up", "ack", "state", "certainly"),
        ("up", "ack", "tenant", "ACME; DROP"),
        ("down", "desired", "table", "g" * 64),
        ("down", "desired", "entries", [{"tenant": "acme"}]),
        ("table", "entry", "current", {"id": "0" * 64}),
    ],
)
def test_a_value_that_is_no_value_of_its_field_is_refused(family: str, name: str, field: str, value: Any) -> None:
    path = golden.FOLDER / family / f"{name}.json"
    document = {**json.loads(path.read_bytes()), field: value}
    with pytest.raises(ValidationError):
        golden.adapter_of(path).validate_python(document)


def test_a_generation_above_255_survives_the_wire_and_one_that_no_database_holds_is_refused() -> None:
    """nomad_3357: a version kept in eight bits wrapped."""
    path = golden.FOLDER / "table" / "entry.json"
    document = json.loads(path.read_bytes())
    for generation in (255, 256, 2**31, 2**53 - 1):
        raw = json.dumps({**document, "generation": generation})
        entry = golden.adapter_of(path).validate_json(raw)
        assert entry.generation == generation
        assert json.loads(entry.model_dump_json())["generation"] == generation
    for field in ("generation", "epoch"):
        for beyond in (-1, 2**53, 2**200):
            with pytest.raises(ValidationError):
                golden.adapter_of(path).validate_json(json.dumps({**document, field: beyond}))
