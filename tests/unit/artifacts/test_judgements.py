"""Files of judgements: what they hold, and which line is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.judgements import RUBRIC, Line, item, judgement, lines

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.rows.barred_rows import row_digest
from loradeck.artifacts.rows.judgements import campaign_in, text_of
from loradeck.schemas.preference import Campaign


def read(tmp_path: Path, rows: list[Line]) -> Campaign:
    path = tmp_path / "judgements.jsonl"
    path.write_text(text_of(rows))
    return campaign_in({path.name: path})


def test_rubrics_raters_items_and_judgements_are_told_apart_by_their_fields(tmp_path: Path) -> None:
    found = read(tmp_path, lines(pairs=3, gold=1))
    assert (list(found.rubrics), list(found.raters), list(found.items)) == (
        [RUBRIC],
        ["r1", "r2"],
        ["p0", "p1", "p2", "g0"],
    )
    assert (len(found.judgements), found.raters["r1"].person) == (8, "ann")
    assert found.digests["p1"] == row_digest(item(1))


def changed(line: int, **fields: object) -> Callable[[list[Line]], list[Line]]:
    return lambda rows: [row | fields if n == line else row for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        (lambda rows: [*rows, rows[-1]], "twice", "line 10"),
        (lambda rows: [*rows, judgement(7, "r1")], "no line describes", "line 10"),
        (lambda rows: [*rows, judgement(0, "r9")], "no line describes", "line 10"),
        (lambda rows: [*rows, {**judgement(0, "r1"), "rubric": "helpful@2"}], "no line describes", "line 10"),
        (lambda rows: [*rows, {"item": "q", "prompt": "x"}], "all pairs, all answers or all labels", "label, pair"),
        (changed(8, choice="c"), "no choice of the item", "line 9"),
        (changed(8, at="2026-03-01"), "no judgement", "line 9: at"),
        (changed(8, rubric="Helpful"), "no judgement", "line 9: rubric"),
        (changed(3, gold="tie"), "no choice that this item has", "item p0"),
        (changed(1, note="x"), "no rater", "line 2: note"),
        (changed(2, person="ann"), "one person", "ann: r1, r2"),
    ],
)
def test_a_line_that_does_not_fit_is_refused_with_its_place(
    tmp_path: Path, change: Callable[[list[Line]], list[Line]], what: str, where: str
) -> None:
    rows = lines(pairs=2, gold=0)
    assert len(rows) == 9
    with pytest.raises(BadArtifact) as refused:
        read(tmp_path, change(rows))
    assert refused.value.code == "bad_judgements"
    assert what in refused.value.title
    assert where in refused.value.detail
