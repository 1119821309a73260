"""Scoring of one answer against its item: pure functions, without a model."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loradeck.schemas.attestation import ItemResult
from loradeck.schemas.suite import ItemKind, SuiteItem, name_of
from loradeck_agent.executors.rows import violation

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
"""A tool call as chat templates with tools write it; an answer that was cut off lacks the end mark."""

WHY = 300
"""Longest reason that is kept, in characters."""


def scored(item: SuiteItem, answer: str, schema: Mapping[str, Any] | None, ms: float | None = None) -> ItemResult:
    """Scores one answer: `exact`, `valid`, and the reason where it is not exact.

    Args:
        schema: the suite's answer schema; the schema of a json item takes its place.
        ms: how long the answer took, in milliseconds.
    """
    match item.kind:
        case ItemKind.JSON:
            exact, valid, why = _json(item, answer, item.answer_schema or schema)
        case ItemKind.TOOL_CALL:
            exact, valid, why = _tool_call(item, answer)
        case ItemKind.REFUSAL:
            exact, valid, why = _refusal(item, answer)
        case ItemKind.CHOICE:
            raise ValueError("a choice is not answered: see chosen")
        case ItemKind.EXACT:
            exact, valid, why = answer.strip() == str(item.answer).strip(), is_valid(answer, schema), ""
    return ItemResult(id=item.id, answer=answer, exact=exact, valid=valid, kind=item.kind, ms=ms, why=why[:WHY])


def chosen(item: SuiteItem, logs: Sequence[float], ms: float | None = None) -> ItemResult:
    """Scores a multiple-choice item as lm-eval does, by the log-probability of each choice, summed over its tokens.

    The answer is the likeliest choice: `exact` is lm-eval's `acc`. `acc_norm` divides by the characters of the choice
    first, so that long choices are not at a disadvantage.

    Args:
        logs: of each choice, in nats.
        ms: how long it took, in milliseconds.
    """
    likeliest = item.choices[_first_largest(logs)]
    by_length = [log / len(choice) for log, choice in zip(logs, item.choices, strict=True)]
    normed = item.choices[_first_largest(by_length)] == item.answer
    right = likeliest == item.answer
    first, second = sorted(logs)[:-3:-1]
    return ItemResult(
        id=item.id,
        answer=likeliest,
        exact=right,
        valid=True,
        kind=item.kind,
        ms=ms,
        acc_norm=normed,
        margin=round(first - second, 4),
    )


def _first_largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def is_valid(answer: str, schema: Mapping[str, Any] | None) -> bool:
    """Tells whether an answer is JSON and satisfies the schema, if there is one."""
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return _broken(document, schema) == ""


def calls_in(answer: str) -> list[dict[str, Any]]:
    """Reads the tool calls of an answer: `<tool_call>` blocks, or an answer that is nothing but calls as JSON.

    Returns an empty list for prose; each call is `{"name": ..., "arguments": {...}}`.

    Raises: ValueError: the answer begins a tool call that cannot be read.
    """
    blocks = _CALL.findall(answer)
    if blocks:
        return [_call(json.loads(block)) for block in blocks]
    text = answer.strip()
    if not text.startswith(("{", "[")):
        return []
    document = json.loads(text)
    return [_call(one) for one in (document if isinstance(document, list) else [document])]


def _call(document: Any) -> dict[str, Any]:
    function = document.get("function", document) if isinstance(document, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("a call without a name")
    arguments = function.get("arguments", function.get("parameters", {}))  # the latter is Llama 3's
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("arguments that are no object")
    return {"name": function["name"], "arguments": arguments}


def _tool_call(item: SuiteItem, answer: str) -> tuple[bool, bool, str]:
    try:
        calls = calls_in(answer)
    except (ValueError, RecursionError) as error:
        return False, False, f"no call: {error}"
    tools = {name_of(tool): tool.get("function", tool) for tool in item.tools}
    for call in calls:
        tool = tools.get(call["name"])
        if tool is None:
            return False, False, f"calls {call['name']!r}, the tools are {sorted(map(str, tools))}"
        broken = _broken(call["arguments"], tool.get("parameters"))
        if broken:
            return False, False, f"the arguments of {call['name']}: {broken}"
    if not item.states_the_call:
        return bool(calls), bool(calls), "" if calls else "calls no tool"
    wanted = [] if item.call is None else [{"name": item.call["name"], "arguments": item.call.get("arguments", {})}]
    as_asked = _same(calls, wanted)
    return as_asked, bool(calls) or not wanted, "" if as_asked else f"calls {json.dumps(calls)}"


def _json(item: SuiteItem, answer: str, schema: Mapping[str, Any] | None) -> tuple[bool, bool, str]:
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError) as error:
        return False, False, f"not JSON: {error}"
    broken = _broken(document, schema)
    if broken:
        return False, False, broken
    equal = item.answer is None or _same(document, json.loads(item.answer))
    return equal, True, "" if equal else "differs from the item's answer"


def _refusal(item: SuiteItem, answer: str) -> tuple[bool, bool, str]:
    found = refusal_in(answer, item.phrases)
    exact = (found is not None) is item.refuse
    why = "" if exact else "it does not refuse" if found is None else f"it refuses: {found!r}"
    return exact, bool(answer.strip()), why


def refusal_in(answer: str, phrases: Iterable[str]) -> str | None:
    """Finds the first of the phrases that mark a refusal in an answer, whatever its case; None: it has none."""
    text = answer.replace("\u2019", "'").casefold()
    return next((phrase for phrase in phrases if phrase.casefold() in text), None)


def _same(one: Any, other: Any) -> bool:
    """Tells whether two documents are equal as JSON: true is not 1, and 1.0 is 1."""
    return json.dumps(_plain(one), sort_keys=True) == json.dumps(_plain(other), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _broken(document: Any, schema: Mapping[str, Any] | None) -> str:
    """First violation of a schema by a document, as `path: message`; '' for none or without a schema."""
    if schema is None:
        return ""
    error = violation(document, schema)
    return f"{error.json_path}: {error.message}" if error is not None else ""
