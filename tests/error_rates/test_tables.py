"""The tables of docs are what was kept of them, and their rules do today what they did then."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from tests.error_rates.judges import share_decided
from tests.error_rates.tables import TABLES
from tests.error_rates.written import RESULTS, ROOT, Summed, lines

KEPT = json.loads(RESULTS.read_text())


@pytest.mark.parametrize("name", TABLES)
def test_a_page_has_its_table_as_it_was_kept(name: str) -> None:
    table = TABLES[name]
    begin, end = table.marks
    assert f"{begin}\n\n{lines(table, KEPT[name])}\n\n{end}" in (ROOT / "docs" / table.page).read_text()


@pytest.mark.parametrize("name", TABLES)
def test_the_first_draws_of_each_case_come_out_as_they_did(name: str) -> None:
    table, kept = TABLES[name], KEPT[name]
    if isinstance(table, Summed):
        assert list(islice(table.made(), table.again)) == kept["lines"][: table.again]
        return
    assert [(case.what, case.counted, case.draws) for case in table.cases] == [
        (row["what"], row["counted"], row["n"]) for row in kept["rows"]
    ]
    for case, row in zip(table.cases, kept["rows"], strict=True):
        again, said = (case.draws, row["k"]) if table.seed is None else (table.again, row["first"])
        assert sum(case.says(number) for number in range(again)) == said, case.what


@pytest.mark.parametrize(("items", "split"), [(40, 0.5), (60, 0.8)])
def test_a_judge_that_agrees_with_people_as_much_as_the_floor_decides_once_in_twenty_at_most(
    items: int, split: float
) -> None:
    assert share_decided("answer", items, split, 0.67) <= 0.05
