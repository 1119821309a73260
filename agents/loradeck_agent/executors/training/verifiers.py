"""Verifiable rewards: how near an answer comes to the row's own, as text, JSON or calls of tools. Pure functions.

A reward is 0 to 1, and 1 only for what would count as right. What comes near earns a part, since a group of answers
that all earn nothing teaches nothing.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from loradeck.schemas.training import AnswerForm
from loradeck_agent.executors.rows import violation

FORM = 0.2
"""Reward of an answer that is JSON, or calls the right tool, and has nothing else right."""


def reward(form: AnswerForm, schema: Mapping[str, Any] | None, wanted: str, answer: str) -> float:
    """Rewards an answer by the row's own, `wanted`, of the recipe's form.

    A row that refuses, or calls nothing, wants an answer that does so too, in whatever words.
    """
    if form is AnswerForm.TEXT:
        return float(answer.strip() == wanted.strip())
    if form is AnswerForm.JSON:
        return _of_json(schema, parsed(wanted), parsed(answer), answer)
    return _of_calls(calls(wanted), calls(answer), answer)


def well_formed(form: AnswerForm, schema: Mapping[str, Any] | None, wanted: str, answer: str) -> bool:
    """Tells whether an answer has the form of the row's own answer, `wanted`, whatever it says.

    The form is JSON of the schema, calls, or text. Where the row refuses or calls nothing, so does the answer.
    """
    if not answer.strip():
        return False
    if form is AnswerForm.JSON:
        found, asked = parsed(answer), parsed(wanted) is not None
        return (found is not None) is asked and (found is None or schema is None or violation(found, schema) is None)
    return form is AnswerForm.TEXT or bool(calls(answer)) is bool(calls(wanted))


def parsed(text: str) -> Any:
    """The JSON object or array that a text is, as a whole; None if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def calls(text: str) -> list[tuple[str, Any]]:
    """Reads the calls in a text, by name and arguments, as templates write them: JSON with a name, among marks."""
    found: list[tuple[str, Any]] = []
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        function = value.get("function", value)
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            arguments = function.get("arguments", function.get("parameters", {}))
            found.append((function["name"], parsed(arguments) if isinstance(arguments, str) else arguments))
        at = text.find("{", end)
    return found


def _of_json(schema: Mapping[str, Any] | None, wanted: Any, found: Any, answer: str) -> float:
    if wanted is None:
        return float(found is None and bool(answer.strip()))
    if found is None:
        return 0.0
    if schema is not None and violation(found, schema) is not None:
        return FORM / 2
    return FORM + (1 - FORM) * _same(wanted, found)


def _of_calls(wanted: list[tuple[str, Any]], found: list[tuple[str, Any]], answer: str) -> float:
    if not wanted:
        return float(not found and bool(answer.strip()))
    each = [
        FORM + (1 - FORM) * _same(theirs, ours)
        for (name, theirs), (called, ours) in zip(wanted, found, strict=False)
        if name == called
    ]
    return sum(each) / max(len(wanted), len(found))


def _same(wanted: Any, found: Any) -> float:
    """Share of the values in either document that both have in the same place."""
    ours, theirs = dict(_leaves(wanted)), dict(_leaves(found))
    places = ours.keys() | theirs.keys()
    same = sum(at in ours and at in theirs and ours[at] == theirs[at] for at in places)
    return same / len(places) if places else 1.0


def _leaves(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], tuple[str, Any]]]:
    """The values in a document by place, each with its type: 1 is not true."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inside is None or not value:
        yield at, (type(value).__name__, None if inside is not None else value)
        return
    for key, part in inside:
        yield from _leaves(part, (*at, key))
