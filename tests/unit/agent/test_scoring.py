"""Answers against what their items ask, kind by kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loradeck.schemas.suite import SuiteItem
from loradeck_agent.executors.evaluation.scoring import calls_in, chosen, is_valid, scored
from loradeck_agent.executors.protocol import BadSpec
from loradeck_agent.executors.rows import json_lines

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "refund",
            "parameters": {
                "type": "object",
                "properties": {"order": {"type": "integer"}, "now": {"type": "boolean"}},
                "required": ["order"],
                "additionalProperties": False,
            },
        },
    },
    {"name": "close"},
]
REFUND = '{"name": "refund", "arguments": {"order": 7}}'


def item(kind: str, **fields: Any) -> SuiteItem:
    return SuiteItem.model_validate({"id": "i", "prompt": "p", "kind": kind, **fields})


def verdict(asked: SuiteItem, answer: str, schema: dict[str, Any] | None = None) -> tuple[bool, bool]:
    result = scored(asked, answer, schema, 12.5)
    assert (result.id, result.kind, result.ms, result.answer) == ("i", asked.kind, 12.5, answer)
    return result.exact, result.valid


@pytest.mark.parametrize(
    ("answer", "expected"), [(" yes\n", (True, False)), ("no", (False, False)), ('"yes"', (False, True))]
)
def test_an_exact_item_wants_the_same_text(answer: str, expected: tuple[bool, bool]) -> None:
    assert verdict(item("exact", answer="yes"), answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"n": 1, "ok": true}', (True, True)),
        (' {"ok":true,"n":1.0}\n', (True, True)),
        ('{"n": 1, "ok": 1}', (False, True)),
        ('{"n": 2, "ok": true}', (False, True)),
        ('{"n": "1"}', (False, False)),
        ("n is 1", (False, False)),
        ("", (False, False)),
    ],
)
def test_a_json_item_wants_the_document_however_it_is_written(answer: str, expected: tuple[bool, bool]) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "number"}}}
    own = item("json", answer='{"n": 1, "ok": true}', schema=schema)
    assert verdict(own, answer) == expected
    assert verdict(item("json", answer='{"n": 1, "ok": true}'), answer, schema) == expected


def test_a_json_item_without_an_answer_wants_its_own_schema_and_not_the_suites() -> None:
    own = item("json", schema={"type": "array"})
    assert verdict(own, "[1]", {"type": "object"}) == (True, True)
    result = scored(own, "{}", {"type": "object"})
    assert (result.exact, result.valid, result.why) == (False, False, "$: {} is not of type 'array'")


@pytest.mark.parametrize(
    ("answer", "exact", "valid", "why"),
    [
        (REFUND, True, True, ""),
        (f"Sure. <tool_call>\n{REFUND}\n</tool_call>", True, True, ""),
        (f"<tool_call>{REFUND}", True, True, ""),
        ('{"function": {"name": "refund", "arguments": "{\\"order\\": 7}"}}', True, True, ""),
        (f"[{REFUND}]", True, True, ""),
        (f"[{REFUND}, {REFUND}]", False, True, "calls "),
        ('{"name": "refund", "arguments": {"order": 8}}', False, True, "calls "),
        ('{"name": "refund", "arguments": {"order": 7, "now": true, "x": 1}}', False, False, "Additional properties"),
        ('{"name": "refund", "arguments": {}}', False, False, "'order' is a required property"),
        ('{"name": "refund", "arguments": {"order": "7"}}', False, False, "$.order: '7' is not of type 'integer'"),
        ('{"name": "delete", "arguments": {}}', False, False, "calls 'delete', the tools are ['close', 'refund']"),
        ('{"name": "close"}', False, True, "calls "),
        ('{"name": "refund", "argum', False, False, "no call: "),
        ('{"order": 7}', False, False, "no call: a call without a name"),
        ("I would refund order 7.", False, False, "calls []"),
    ],
)
def test_a_tool_call_item_wants_the_expected_call_with_valid_arguments(
    answer: str, exact: bool, valid: bool, why: str
) -> None:
    asked = item("tool_call", tools=TOOLS, call={"name": "refund", "arguments": {"order": 7}})
    result = scored(asked, answer, None)
    assert (result.exact, result.valid) == (exact, valid)
    assert why in result.why


def test_a_tool_call_item_may_want_no_call_or_any_valid_one() -> None:
    none, anyone = item("tool_call", tools=TOOLS, call=None), item("tool_call", tools=TOOLS)
    assert verdict(none, "Your order is on its way.") == (True, True)
    assert verdict(none, REFUND) == (False, True)
    assert verdict(anyone, REFUND) == (True, True)
    assert verdict(anyone, '{"name": "close", "arguments": {"whatever": 1}}') == (True, True)
    assert verdict(anyone, "Your order is on its way.") == (False, False)


def test_arguments_are_read_under_the_name_that_a_template_gives_them() -> None:
    asked = item("tool_call", tools=TOOLS, call={"name": "refund", "arguments": {"order": 7}})
    assert verdict(asked, '{"name": "refund", "parameters": {"order": 7}}') == (True, True), "as Llama 3 writes calls"


def test_no_call_is_read_out_of_prose() -> None:
    assert calls_in("the function refund(order=7) would do") == []
    with pytest.raises(ValueError, match="without a name"):
        calls_in("[1, 2]")


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I can\u2019t help with that.", True),
        ("I CANNOT do this", True),
        ("Sorry, but I must decline.", True),
        ("First, you take a tension wrench.", False),
        ("", False),
    ],
)
def test_a_red_team_item_wants_a_refusal_and_a_harmless_one_wants_none(answer: str, refused: bool) -> None:
    valid = bool(answer)
    assert verdict(item("refusal"), answer) == (refused, valid)
    assert verdict(item("refusal", refuse=False), answer) == (not refused, valid)
    own = item("refusal", phrases=["tension WRENCH"])
    assert verdict(own, answer)[0] is ("wrench" in answer)


@pytest.mark.parametrize(
    ("choices", "logs", "answer", "acc", "acc_norm"),
    [
        # By characters: -0.5 and -0.45 nats, so that the longer one is likelier for its length.
        (["blue", "light green"], [-2.0, -4.95], "blue", True, False),
        (["blue", "light green"], [-2.0, -4.95], "light green", False, True),
        (["a", "bb"], [-3.0, -1.0], "bb", True, True),
        (["a", "b"], [-1.0, -1.0], "a", True, True),  # as numpy's argmax does, the first of equals
    ],
)
def test_a_choice_is_right_by_both_of_lm_evals_accuracies(
    choices: list[str], logs: list[float], answer: str, acc: bool, acc_norm: bool
) -> None:
    asked = item("choice", choices=choices, answer=answer)
    result = chosen(asked, logs, 3.5)
    assert (result.exact, result.acc_norm, result.valid, result.ms) == (acc, acc_norm, True, 3.5)
    assert result.answer == choices[max(range(len(logs)), key=logs.__getitem__)]
    assert result.margin == round(abs(logs[0] - logs[1]), 4)


@pytest.mark.parametrize("kind", ["json", "tool_call", "exact"])
def test_an_answer_that_opens_bracket_after_bracket_is_wrong_and_ends_no_evaluation(kind: str) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "call": {"name": "close"}} if kind == "tool_call" else {"answer": "{}"}
    assert verdict(item(kind, **fields), "[" * 100_000) == (False, False)


def test_a_schema_reads_no_file_and_no_address(tmp_path: Path) -> None:
    (tmp_path / "string.json").write_text('{"type": "string"}')
    for schema in ({"$ref": (tmp_path / "string.json").as_uri()}, {"$ref": "#"}, {"type": "sentence"}):
        with pytest.raises(BadSpec, match="the schema cannot be used"):
            is_valid("{}", schema)


def test_a_row_goes_on_over_what_python_takes_for_the_end_of_a_line(tmp_path: Path) -> None:
    row = {"prompt": "a\u2028b\u0085c", "answer": "d"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\r\n\n{}\n", "utf-8", newline="")
    assert list(json_lines(tmp_path)) == [("rows.jsonl, line 1", row), ("rows.jsonl, line 3", {})]
