"""A dataset is compared with the rows that its judgements make, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.judgements import RUBRIC, Line, lines
from tests.unit.rules.test_preferences import made

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.rows.judgements import text_of
from loradeck.hub.data.judged_rows import JudgedTask, checked
from loradeck.rules.errors import Refused
from loradeck.schemas.preference import PreferenceBuild


def task(folder: Path, rows: list[Line], judgements: list[Line], rubric: str = RUBRIC) -> JudgedTask:
    files = folder / "rows.jsonl", folder / "judgements.jsonl"
    for file, content in zip(files, (rows, judgements), strict=True):
        file.write_text(text_of(content))
    build = PreferenceBuild(judgements="0" * 64, rubric=rubric)
    return JudgedTask(made={files[0].name: files[0]}, judgements={files[1].name: files[1]}, build=build, stated=())


def test_rows_that_the_judgements_make_are_reported_and_others_refused(tmp_path: Path) -> None:
    rows, report = made(lines())
    assert checked(task(tmp_path, rows, lines())) == report
    for other in (rows[1:], [*rows[:-1], rows[-1] | {"chosen": "x"}]):
        with pytest.raises(BadArtifact) as refused:
            checked(task(tmp_path, other, lines()))
        assert refused.value.code == "not_as_built"


def test_what_holds_no_judgements_or_another_rubric_makes_no_rows(tmp_path: Path) -> None:
    rows, _ = made(lines())
    with pytest.raises(BadArtifact) as bad:
        checked(task(tmp_path, rows, [{"prompt": "p", "answer": "a"}]))
    assert bad.value.code == "bad_judgements"
    with pytest.raises(Refused) as refused:
        checked(task(tmp_path, rows, lines(), "helpful@2"))
    assert refused.value.code == "unknown_rubric"
