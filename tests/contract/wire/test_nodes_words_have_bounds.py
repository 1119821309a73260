"""What a node makes long in a message is cut or refused, whichever field it is: nothing grows with what was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.contract.wire import golden

from loradeck.schemas.ids import LINE
from loradeck.schemas.jobs import DATA_BYTES
from loradeck.schemas.link import RESULT_BYTES, up_adapter

LONG = "x" * (DATA_BYTES + 1)
MANY = 120_000
"""More than any list or object of a message may have."""

FILES = [path for path in golden.files() if path.parent.name == "up" and not path.stem.startswith("table_state")]
"""A table is asked for by a person's recover alone, and only what the hub has signed counts of it."""


def _grown(said: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a document, each with something in it that is too long or too many."""
    if isinstance(said, str):
        yield "", LONG
    elif isinstance(said, list) and said:
        yield "", [said[0]] * MANY
        for where, grown in _grown(said[0]):
            yield f"[0]{where}", [grown, *said[1:]]
    elif isinstance(said, dict):
        yield "", said | {f"{n:064x}": next(iter(said.values()), 0) for n in range(MANY)}
        for name, inner in said.items():
            for where, grown in _grown(inner):
                yield f".{name}{where}", said | {name: grown}


@pytest.mark.parametrize("path", FILES, ids=golden.name_of)
def test_what_a_node_makes_long_is_cut_or_refused(path: Path) -> None:
    document = json.loads(path.read_bytes())
    if path.stem == "job_event":
        document["result"] = None
        document["event"] |= {"metrics": {"loss": 1.0}, "data": {"log": "x"}}
    before, tried = len(json.dumps(document)), 0
    for where, grown in _grown(document):
        tried += 1
        try:
            read = up_adapter.validate_json(json.dumps(grown))
        except ValidationError:
            continue
        assert len(read.model_dump_json()) < 2 * before + 2 * LINE, f"{path.stem}{where} is kept as long as it comes"
    assert tried > 1


def test_a_jobs_result_is_as_long_as_an_agents_call_may_be() -> None:
    said = json.loads((golden.FOLDER / "up/job_event.json").read_bytes())
    up_adapter.validate_json(json.dumps(said | {"result": {"x": "y" * (RESULT_BYTES - 100)}}))
    with pytest.raises(ValidationError, match="16777216 bytes"):
        up_adapter.validate_json(json.dumps(said | {"result": {"x": "y" * RESULT_BYTES}}))
