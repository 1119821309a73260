"""The documents of the benchmark say what its results say, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.bench import report
from tests.bench.report import Section
from tests.bench.rows import Row


def test_the_document_is_written_from_the_results() -> None:
    assert report.DOCUMENT.read_text(encoding="utf-8") == report.document(report.read())


def test_the_readme_is_written_from_the_results() -> None:
    readme = report.README.read_text(encoding="utf-8")
    assert report.with_table(readme, report.read()) == readme


def test_every_figure_of_the_readme_is_a_row_of_the_results_and_there_are_five() -> None:
    rows = [row.what for section in report.read().values() for row in section.rows]
    found = [[what for what in rows if what.startswith(beginning)] for beginning, _ in report.IN_README]
    assert [len(of) for of in found] == [1] * 5


def _section(*rows: Row, failed: str = "") -> dict[str, Section]:
    return {"flip": Section("R", "How it goes.", "2026-03-01 03:12Z", "2 cores", 1.0, failed, rows)}


def test_a_miss_is_said_in_every_document() -> None:
    row = Row(report.IN_README[0][0], 0.7, "x", 9, 0.5, reference="peer")
    assert row.missed
    assert "MISSED" in str(row)
    assert "| 0.700 x **MISSED** | ≤ 0.5 | ratio to a peer | 9 |" in report.document(_section(row))
    assert "| 0.700 x **MISSED** | ≤ 0.5 | 9 |" in report.table(_section(row))


def test_more_is_better_where_it_says_so() -> None:
    assert Row("router against bare aiohttp", 0.59, "x", 9, 0.6, higher=True, reference="peer").missed
    assert not Row("router against bare aiohttp", 0.61, "x", 9, 0.6, higher=True, reference="peer").missed


def test_results_with_a_budget_on_a_time_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"flip": asdict(_section(Row("R", 5.0, "ms", 9))["flip"])}
    body["flip"]["rows"][0]["budget"] = 8.0
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    report.RESULTS.write_text(json.dumps(body))
    with pytest.raises(ValueError, match="R: a budget of 8 ms means something else on each machine"):
        report.read()


def test_a_part_that_failed_is_said_to_have_failed() -> None:
    assert "**FAILED**: it broke" in report.document(_section(failed="it broke"))


def test_a_readme_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="the README needs"):
        report.with_table("nothing", _section())
