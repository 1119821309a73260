"""The stored figures of the experiment, and what the table of docs/synthetic.md says of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.collapse.experiment import ARMS, CELLS, ROWS, Cell
from tests.collapse.figures import DOCUMENT, RESULTS, generations, level, rise, table

KEPT: dict[str, Any] = json.loads(RESULTS.read_text())
OF = {(cell["arm"], cell["generation"]): cell for cell in KEPT["cells"]}


def test_the_document_has_the_table_of_what_was_measured() -> None:
    assert table(KEPT) in DOCUMENT.read_text()
    assert list(OF) == list(CELLS[: len(OF)])


@pytest.mark.parametrize("cell", OF)
def test_a_generation_was_trained_on_what_its_arm_says(cell: Cell) -> None:
    arm, number = cell
    name = "passed" if arm == "verify" else "written"
    earlier = [CELLS[0], *((arm, before) for before in range(1, number))]
    made = [OF[one][name] for one in earlier]
    expected = ROWS if number == 0 else made[-1] if arm == "replace" else ROWS + sum(made)
    assert OF[cell]["rows"] == expected
    assert len(OF[cell]["nats"]) == ROWS
    assert OF[cell]["right"] <= OF[cell]["written"] <= ROWS
    assert OF[cell]["passed"] <= OF[cell]["written"]


def test_the_held_out_answers_are_the_same_for_every_generation() -> None:
    assert len({tuple(tokens for _, tokens in cell["nats"]) for cell in KEPT["cells"]}) == 1


def test_replacing_loses_surely_more_than_twice_what_accumulating_loses() -> None:
    first, last = OF["people", 0], {arm: OF[arm, generations(KEPT)] for arm in ARMS}
    assert rise(last["replace"], first)[1] > 0, "surely worse than what was trained on people's rows"
    for arm in ("accumulate", "verify"):
        more, low, _ = rise(last["replace"], last[arm])
        assert more >= low > 0, f"surely worse than {arm}"
        assert level(last[arm]) - level(first) < (level(last["replace"]) - level(first)) / 2
