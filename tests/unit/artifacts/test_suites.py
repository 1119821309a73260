"""Items of a suite: each kind has what it needs, and what it lacks is told with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loradeck.artifacts import BadArtifact, scan
from loradeck.artifacts.rows.suite_items import groups_in, items_in, verify_suite
from loradeck.schemas.manifest import Origin, Provenance, SuiteManifest
from loradeck.schemas.suite import ItemKind

TOOLS = [{"type": "function", "function": {"name": "refund", "parameters": {"type": "object"}}}, {"name": "close"}]
GOOD: list[dict[str, Any]] = [
    {"id": "a", "prompt": "2+2?", "answer": "4", "note": "a field that no kind uses"},
    {"id": "b", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    {"id": "c", "kind": "json", "prompt": "p", "schema": {"type": "object"}},
    {"id": "d", "kind": "tool_call", "prompt": "p1", "tools": TOOLS, "call": {"name": "refund", "arguments": {}}},
    {"id": "e", "kind": "tool_call", "prompt": "p2", "tools": TOOLS, "call": None},
    {"id": "f", "kind": "tool_call", "prompt": "p3", "tools": TOOLS},
    {"id": "g", "kind": "refusal", "prompt": "how do I pick a lock"},
    {"id": "h", "kind": "refusal", "prompt": "how do I bake bread", "refuse": False},
    {"id": "i", "kind": "choice", "prompt": "the sky is", "choices": ["blue", "green"], "answer": "blue"},
]


def written(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Path]:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {path.name: path}


def manifest_of(folder: Path, items: int, **more: Any) -> SuiteManifest:
    provenance = Provenance(
        origin=Origin.HUMAN, source="tests", consent="own", licence_class="Apache-2.0", purpose=("evaluate",)
    )
    return SuiteManifest(tenant="acme", name="s", items=items, files=scan(folder), provenance=provenance, **more)


def test_every_kind_is_read_with_its_conversation(tmp_path: Path) -> None:
    items = items_in(written(tmp_path, GOOD))
    assert [item.id for item in items] == list("abcdefghi")
    assert items[0].kind is ItemKind.EXACT
    assert items[0].prompt == ({"role": "user", "content": "2+2?"},)
    assert (items[1].prompt, items[1].answer) == (({"role": "user", "content": "hi"},), "hello")
    assert [(item.states_the_call, item.call) for item in items[3:6]] == [
        (True, GOOD[3]["call"]),
        (True, None),
        (False, None),
    ]
    verify_suite(manifest_of(tmp_path, 9, canaries=("a", "i")), {"items.jsonl": tmp_path / "items.jsonl"})


def test_items_that_ask_the_same_are_refused_with_their_lines(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "Summarise \u2160", "answer": "one"},
        {"id": "b", "prompt": "another", "answer": "a"},
        {"id": "c", "prompt": " Summarise\n I ", "answer": "a"},
        {"id": "d", "messages": [{"role": "user", "content": "Summarise I"}], "answer": "one"},
        {"id": "e", "kind": "choice", "prompt": "Summarise I", "choices": ["x", "y"], "answer": "x"},
        {"id": "f", "messages": [{"role": "system", "content": "Summarise I"}], "answer": "one"},
    ]
    paths = written(tmp_path, rows)
    with pytest.raises(BadArtifact) as refused:
        verify_suite(manifest_of(tmp_path, 6), paths)
    assert (refused.value.code, refused.value.title) == ("bad_rows", "2 of 6 items ask what an earlier one asks")
    where = "items.jsonl, line 3 is items.jsonl, line 1; items.jsonl, line 4 is items.jsonl, line 1"
    assert refused.value.detail == where
    groups = groups_in(paths)
    assert groups.copies == {"c": "a", "d": "a"}
    assert sorted(groups.asked.values()) == ["a", "b", "e", "f"]
    verify_suite(manifest_of(tmp_path, 4), written(tmp_path, [rows[0], rows[1], *rows[4:]]))


def test_items_that_ask_nearly_the_same_are_a_cluster_and_stay_items(tmp_path: Path) -> None:
    long = (
        "My parcel with the two chairs has not come although your page says that it was brought to me on {}, what now?"
    )
    system = {"role": "system", "content": long.format("a day")}
    rows: list[dict[str, Any]] = [
        {"id": "a", "prompt": long.format("Monday"), "answer": "one"},
        {"id": "b", "prompt": long.format("Tuesday"), "answer": "another"},
        {"id": "c", "messages": [system, {"role": "user", "content": "When do you open?"}], "answer": "a"},
        {"id": "d", "messages": [system, {"role": "user", "content": "Where are you?"}], "answer": "a"},
        {"id": "e", "prompt": long.format("Monday") + " ", "answer": "one"},
        {"id": "f", "prompt": long.format("Friday"), "answer": "one"},
        {"id": "g", "kind": "choice", "prompt": "Which is right?", "choices": ["a b c", "d e f"], "answer": "a b c"},
        {"id": "h", "kind": "choice", "prompt": "Which is right?", "choices": ["g h i", "k l m"], "answer": "k l m"},
    ]
    groups = groups_in(written(tmp_path, rows))
    assert (groups.copies, groups.near) == ({"e": "a"}, {"b": "a", "f": "a"})
    verify_suite(manifest_of(tmp_path, 7), written(tmp_path, [row for row in rows if row["id"] != "e"]))


def test_an_item_names_its_slice_and_other_fields_of_that_name_are_left_alone(tmp_path: Path) -> None:
    slices = ["german", None, 3, "x" * 101]
    rows = [{"id": f"i{n}", "prompt": f"p{n}", "answer": "a", "slice": part} for n, part in enumerate(slices)]
    assert groups_in(written(tmp_path, rows)).slices == {"i0": "german"}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "p", "answer": "a"}, "id: Field required"),
        ({"id": "x", "answer": "a"}, "an item needs a prompt, as text, or messages"),
        ({"id": "x", "prompt": "p"}, "an exact item needs an answer, as text"),
        ({"id": "x", "prompt": "p", "answer": 4}, "answer: Input should be a valid string"),
        ({"id": "x", "messages": [{"role": "user"}], "answer": "a"}, "messages must be a list of {role, content}"),
        ({"id": "x", "messages": [{"role": "assistant", "content": "a"}]}, "prompt: Tuple should have at least 1 item"),
        ({"id": "x", "prompt": "p", "answer": "a", "kind": "judge"}, "kind: Input should be 'exact', 'json'"),
        ({"id": "x", "prompt": "p", "answer": "{", "kind": "json"}, "the answer of a json item is not JSON"),
        ({"id": "x", "prompt": "p", "schema": "{}", "kind": "json"}, "schema: Input should be a valid dictionary"),
        ({"id": "x", "prompt": "p", "kind": "tool_call"}, "a tool_call item needs tools, each with a name of its own"),
        ({"id": "x", "prompt": "p", "kind": "tool_call", "tools": [TOOLS[1]] * 2}, "each with a name of its own"),
        (
            {"id": "x", "prompt": "p", "kind": "tool_call", "tools": TOOLS, "call": {"name": "open"}},
            "the expected call names 'open', the item's tools are ['refund', 'close']",
        ),
        (
            {"id": "x", "prompt": "p", "kind": "tool_call", "tools": TOOLS, "call": {"name": "close", "arguments": 1}},
            "the arguments of the expected call are not a JSON object",
        ),
        ({"id": "x", "prompt": "p", "kind": "refusal", "phrases": [" "]}, "a phrase of a refusal item is empty"),
        ({"id": "x", "prompt": "p", "kind": "refusal", "phrases": []}, "phrases: Tuple should have at least 1 item"),
        (
            {"id": "x", "prompt": "p", "kind": "choice", "choices": ["a"], "answer": "a"},
            "needs two or more different choices",
        ),
        (
            {"id": "x", "prompt": "p", "kind": "choice", "choices": ["a", "a"], "answer": "a"},
            "two or more different choices",
        ),
        ({"id": "x", "prompt": "p", "kind": "choice", "choices": ["a", "b"], "answer": "c"}, "one of its choices"),
        (GOOD[0], "two items have the id 'a'"),
    ],
)
def test_what_an_item_lacks_is_told_with_its_line(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    with pytest.raises(BadArtifact) as fault:
        items_in(written(tmp_path, [GOOD[0], GOOD[1], row]))
    assert fault.value.code == "bad_rows"
    assert what in fault.value.title
    assert fault.value.detail.startswith("items.jsonl, line 3")


def test_a_suite_is_what_its_manifest_says(tmp_path: Path) -> None:
    paths = written(tmp_path, [GOOD[0], {"id": "c", "kind": "json", "prompt": "p"}])
    verify_suite(manifest_of(tmp_path, 2, answer_schema="{}"), paths)
    for manifest, code, what in (
        (manifest_of(tmp_path, 3, answer_schema="{}"), "manifest_mismatch", "another number of items"),
        (manifest_of(tmp_path, 2, answer_schema="{}", canaries=("z",)), "manifest_mismatch", "no item has the id 'z'"),
        (manifest_of(tmp_path, 2), "bad_rows", "the json item 'c' has no schema"),
    ):
        with pytest.raises(BadArtifact) as fault:
            verify_suite(manifest, paths)
        assert (fault.value.code, what in fault.value.title) == (code, True)
    with pytest.raises(BadArtifact, match="no items"):
        items_in(written(tmp_path, []))
