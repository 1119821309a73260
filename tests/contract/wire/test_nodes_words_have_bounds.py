"""What a node makes long in a message is cut or refused, whichever field it is: nothing grows with what was sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.contract.wire import golden

from loradeck.schemas.executor import DATA_BYTES
from loradeck.schemas.ids import LINE
from loradeck.schemas.link import RESULT_BYTES, UpMessage, up_adapter

LONG = "x" * (DATA_BYTES + 1)
FEW = 5_000
MANY = 120_000
"""More than any list or object of a message may have. What refuses or ignores `FEW` elements is not given so many."""

FILES = [path for path in golden.files() if path.parent.name == "up" and not path.stem.startswith("table_state")]
"""A table is asked for by a person's recover alone, and only what the hub has signed counts of it."""


def _grown(said: Any) -> Iterator[tuple[str, Callable[[int], Any]]]:
    """Where a document may grow, and the document with so many elements, or with too long a text, there."""
    if isinstance(said, str):
        yield "", lambda many: LONG
    elif isinstance(said, list):
        for one in said[:1] or (0, "x"):
            yield "", lambda many, one=one: [one] * many
            for where, grow in _grown(one):
                yield f"[0]{where}", lambda many, grow=grow: [grow(many), *said[1:]]
    elif isinstance(said, dict):
        yield "", lambda many: said | {f"{n:064x}": next(iter(said.values()), 0) for n in range(many)}
        for name, inner in said.items():
            for where, grow in _grown(inner):
                yield f".{name}{where}", lambda many, name=name, grow=grow: said | {name: grow(many)}


def _read(said: Any) -> UpMessage | None:
    """The message as the hub reads it; None: it is refused."""
    try:
        return up_adapter.validate_json(json.dumps(said))
    except ValidationError:
        return None


DRAWN = [
    pytest.param(path, id=name, marks=pytest.mark.drawn(seconds=path.stat().st_size / 1000, group=name))
    for path in FILES
    for name in [golden.name_of(path)]
]
"""A third of the messages is tried in each run. How long it takes grows with what a message has in it."""


@pytest.mark.parametrize("path", DRAWN)
def test_what_a_node_makes_long_is_cut_or_refused(path: Path) -> None:
    document = json.loads(path.read_bytes())
    if path.stem == "job_event":
        document["result"] = None
        document["event"] |= {"metrics": {"loss": 1.0}, "data": {"log": "x"}}
    before, plain, tried = len(json.dumps(document)), _read(document), 0
    for where, grow in _grown(document):
        tried += 1
        if (read := _read(grow(FEW))) in (None, plain) or (read := _read(grow(MANY))) is None:
            continue
        kept = len(read.model_dump_json())
        assert kept < 2 * before + 2 * LINE, f"{path.stem}{where} is kept as long as it comes"
    assert tried > 1


def test_a_jobs_result_is_as_long_as_an_agents_call_may_be() -> None:
    said = json.loads((golden.FOLDER / "up/job_event.json").read_bytes())
    up_adapter.validate_json(json.dumps(said | {"result": {"x": "y" * (RESULT_BYTES - 100)}}))
    with pytest.raises(ValidationError, match="16777216 bytes"):
        up_adapter.validate_json(json.dumps(said | {"result": {"x": "y" * RESULT_BYTES}}))
