"""Rows in other formats: what each becomes, and what is refused with a hint."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.rows.row_formats import as_ours, is_foreign, rows_of_any

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
S = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("row", "ours"),
    [
        ({"prompt": "q", "answer": "a"}, {"prompt": "q", "answer": "a"}),
        ({"messages": [Q, A], "id": "1"}, {"messages": [Q, A], "id": "1"}),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "id": "7"},
            {"messages": [Q, A], "id": "7"},
        ),
        ({"system": "s", "conversations": [Q, {"from": "gpt", "value": "a"}]}, {"messages": [S, Q, A]}),
        ({"instruction": "q", "input": "", "output": "a"}, {"prompt": "q", "answer": "a"}),
        ({"instruction": "q", "input": "more", "output": "a"}, {"prompt": "q\n\nmore", "answer": "a"}),
        ({"instruction": "q", "output": "a", "system": "s"}, {"messages": [S, Q, A]}),
        ({"prompt": "q", "completion": "a"}, {"prompt": "q", "answer": "a"}),
        ({"prompt": [S, Q], "completion": [A]}, {"messages": [S, Q, A]}),
        ({"prompt": "q", "completion": "a", "label": False}, {"prompt": "q", "answer": "a", "good": False}),
        ({"prompt": [Q], "completion": [A], "label": True}, {"messages": [Q, A], "good": True}),
        ({"prompt": "q", "completion": "a", "good": False}, {"prompt": "q", "answer": "a", "good": False}),
        (
            {"prompt": [Q], "chosen": [A], "rejected": [{"role": "assistant", "content": "b"}]},
            {"messages": [Q], "chosen": "a", "rejected": "b"},
        ),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b"}),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, A]},
            {"messages": [Q, A]},
        ),
        ({"question": "q"}, {"question": "q"}),
    ],
)
def test_a_row_of_a_known_format_says_the_same_as_one_of_ours(row: dict[str, Any], ours: dict[str, Any]) -> None:
    assert as_ours(row, "x, line 1") == ours
    assert as_ours(ours, "x, line 1") == ours


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"conversations": [{"from": "function_call", "value": "{}"}]}, "from 'function_call'"),
        ({"conversations": []}, "not a list of turns"),
        ({"conversations": [{"from": "human", "value": ""}]}, "no value"),
        ({"instruction": "q", "output": "a", "history": [["x", "y"]]}, "with a history"),
        ({"instruction": "q"}, "no output"),
        ({"prompt": [Q], "completion": "a"}, "not both texts"),
        ({"prompt": "q", "completion": "a", "label": 0}, "label is neither true nor false"),
        ({"chosen": [Q, A], "rejected": [Q, A]}, "a whole conversation"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "something other than text"),
    ],
)
def test_what_ours_cannot_say_is_refused_with_its_place_and_a_hint(row: dict[str, Any], what: str) -> None:
    with pytest.raises(BadArtifact, match=what) as refused:
        as_ours(row, "x.jsonl, line 3")
    assert (refused.value.code, refused.value.detail) == ("bad_rows", "x.jsonl, line 3")
    assert refused.value.fix


def test_a_list_in_json_and_a_folder_of_parquet_are_read_row_by_row(tmp_path: Path) -> None:
    import pyarrow.parquet  # type: ignore[import-untyped]

    rows = [{"instruction": f"q{n}", "output": "a"} for n in range(3)]
    ours = [{"prompt": f"q{n}", "answer": "a"} for n in range(3)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert [row for _, row in rows_of_any(tmp_path / "rows.json")] == ours
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, data / "train-00000-of-00001.parquet")
    pyarrow.parquet.write_table(table.slice(0, 1), data / "test-00000-of-00001.parquet")
    found = list(rows_of_any(tmp_path / "set"))
    assert [row for _, row in found] == ours
    assert found[2][0] == "train-00000-of-00001.parquet, row 3"
    assert len(list(rows_of_any(tmp_path / "set", "test"))) == 1
    saved = tmp_path / "saved" / "train"
    saved.mkdir(parents=True)
    with pyarrow.ipc.new_stream(str(saved / "data-00000-of-00001.arrow"), table.schema) as stream:
        stream.write_table(table)
    assert [row for _, row in rows_of_any(tmp_path / "saved")] == ours


def test_a_folder_gives_the_rows_of_one_split_alone(tmp_path: Path) -> None:
    folder = tmp_path / ".mine"
    (folder / "cache-1").mkdir(parents=True)
    for name in ("train", "test", "cache-1/train", ".old-train"):
        (folder / f"{name}.jsonl").write_text(f'{{"prompt": "{name}", "answer": "a"}}\n')
    assert [row["prompt"] for _, row in rows_of_any(folder)] == ["train"]
    assert [row["prompt"] for _, row in rows_of_any(folder, "test")] == ["test"]
    with pytest.raises(BadArtifact, match="no rows of this split"):
        list(rows_of_any(folder, "validation"))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "tickets.jsonl").write_text('{"prompt": "q", "answer": "a"}\n')
    assert len(list(rows_of_any(tmp_path / "plain"))) == 1


def test_only_rows_of_another_format_are_written_anew(tmp_path: Path) -> None:
    own, other = tmp_path / "own.jsonl", tmp_path / "other.jsonl"
    own.write_text('{"prompt": "q", "answer": "a", "more": 1}\n')
    other.write_text('{"prompt": "q", "completion": "a"}\n')
    assert (is_foreign(own), is_foreign(other), is_foreign(tmp_path)) == (False, True, True)


def test_a_folder_without_the_split_and_a_file_that_is_no_list_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"prompt": "q"}')
    for path, what in ((tmp_path, "no rows of this split"), (tmp_path / "one.json", "no list of objects")):
        with pytest.raises(BadArtifact, match=what):
            list(rows_of_any(path))


def test_without_pyarrow_a_table_is_refused_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadArtifact, match="not installed") as refused:
        list(rows_of_any(tmp_path / "rows.parquet"))
    assert "loradeck[train]" in refused.value.fix
