"""Training rows: how they are read, and the checks that each answer has the form its recipe requires.

A row is one of

    {"prompt": text, "answer": text}
    {"messages": [...]}                      ends with the assistant's answer
    {"messages": [...], "tools": [...]}      the answer may be `tool_calls` with the base's own template
    {"prompt" or "messages", "chosen": text, "rejected": text}      preferences
    {"prompt" or "messages", "answer": ..., "good": true or false}      kto

and may carry `"negative": true`: it teaches to refuse, or to call no tool. A thought stands before an answer as
`<think>...</think>`, or beside it as `reasoning_content`. Where a recipe trains all turns, a turn with
`"train": false` is read and not taught: a call that failed, before the one that mends it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.manifest import QualityTier
from loradeck.schemas.training import PAIRS, AnswerForm, Method, QualityWeights, Structure, Thoughts, Turns
from loradeck_agent.executors.protocol import BadSpec
from loradeck_agent.executors.rows import json_lines, violation

Message = dict[str, Any]

THOUGHT = re.compile(r"\A\s*<think>(.*?)</think>\s*", re.DOTALL)
"""The thought before an answer, as models that think write it and as their templates read it."""


@dataclass(frozen=True)
class Lesson:
    """One training row. `where`: its file and line; `answer`: the assistant's message (the chosen one of a pair)."""

    where: str
    prompt: tuple[Message, ...]
    answer: Message
    rejected: Message | None = None
    tools: tuple[dict[str, Any], ...] = ()
    negative: bool = False
    general: bool = False
    good: bool = True
    thoughts: Thoughts | None = None
    weight: float = 1.0
    """How often it is drawn in each pass over the rows."""
    taught: tuple[int, ...] = ()
    """Places in `prompt` of the assistant's earlier turns that are trained as well."""

    def turns(self) -> list[Lesson]:
        """Splits the row into one for each turn that is trained, in their order; the last is the row itself."""
        earlier = [replace(self, prompt=self.prompt[:at], answer=self.prompt[at], taught=()) for at in self.taught]
        return [*earlier, replace(self, taught=())]

    @property
    def question(self) -> str:
        """The user's messages, joined by newlines."""
        return "\n".join(str(message.get("content", "")) for message in self.prompt if message["role"] == "user")


def read_lessons(path: Path, spec: TrainSpec, *, general: bool = False) -> list[Lesson]:
    """Reads the rows of one of the recipe's datasets that its weights by quality do not leave out.

    The recipe's structure is not required of general rows.

    Raises: BadSpec: `bad_data`, with file and line; `no_negatives`: too few rows teach to refuse.
    """
    whole, lessons = _quality(path), list[Lesson]()
    for where, row in json_lines(path):
        weight = _weight(where, row, whole, spec.quality)
        if weight:
            lessons.append(replace(_lesson(where, row, spec, general), weight=weight))
    if not lessons:
        raise BadSpec("bad_data", f"{path.name} holds no rows{' that its quality lets in' if spec.quality else ''}")
    if spec.structure is not None and not general:
        _check_structure(lessons, spec.structure)
    return lessons


def _quality(path: Path) -> Any:
    """The quality of a dataset's rows that do not say their own, from the manifest beside them."""
    manifest = path / "manifest.json"
    return json.loads(manifest.read_bytes())["provenance"].get("quality") if manifest.is_file() else None


def _weight(where: str, row: Mapping[str, Any], whole: Any, weights: QualityWeights | None) -> float:
    """Returns how often a row is drawn. `whole`: the quality of its dataset."""
    if weights is None:
        return 1.0
    own = row.get("provenance")
    said = own.get("quality", whole) if isinstance(own, dict) else whole
    try:
        return weights.of(QualityTier(said) if said is not None else None)
    except ValueError:
        raise BadSpec("bad_data", f"{where}: its quality is none of {', '.join(QualityTier)}") from None


def _lesson(where: str, row: dict[str, Any], spec: TrainSpec, general: bool) -> Lesson:
    preferences = spec.method in PAIRS
    wanted = ("chosen", "rejected") if preferences else ("answer",)
    messages = row.get("messages")
    if messages is None:
        if not _filled(row.get("prompt")):
            raise BadSpec("bad_data", f"{where}: needs a prompt, as text, or messages")
        messages = [{"role": "user", "content": row["prompt"]}]
    elif not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise BadSpec("bad_data", f"{where}: messages must be a list of {{role, content}}")
    elif not preferences and "answer" not in row:
        row = {**row, "answer": messages[-1] if messages else None}
        messages = messages[:-1]
    if not messages or messages[-1]["role"] == "assistant":
        raise BadSpec("bad_data", f"{where}: messages must end with the assistant's answer to somebody else's message")
    for field in wanted:
        if not _is_answer(row.get(field)):
            raise BadSpec("bad_data", f"{where}: needs {'an' if field == 'answer' else 'a'} {field}, as text")
    if preferences and row["chosen"] == row["rejected"]:
        raise BadSpec("bad_data", f"{where}: chosen and rejected are the same")
    if spec.method is not Method.KTO and not preferences and row.get("good") is False:
        raise BadSpec("bad_data", f"{where}: its answer is not one to learn (good); kto alone learns from such rows")
    if spec.method is Method.KTO and not isinstance(row.get("good"), bool):
        raise BadSpec("bad_data", f"{where}: needs good, true or false: whether the answer is one to learn")
    tools = row.get("tools") or ()
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, dict) for tool in tools):
        raise BadSpec("bad_data", f"{where}: tools must be a list of objects")
    answer, rejected = (_message(row[field], spec.thoughts) for field in (*wanted, wanted[0])[:2])
    if not (_is_answer(answer) and _is_answer(rejected)):
        raise BadSpec("bad_data", f"{where}: without its thought the answer is empty")
    messages = [_message(one, spec.thoughts) if one["role"] == "assistant" else one for one in messages]
    taught = _taught(where, (*messages, answer), spec.turns)
    return Lesson(
        where=where,
        prompt=tuple({key: value for key, value in message.items() if key != "train"} for message in messages),
        answer={key: value for key, value in answer.items() if key != "train"},
        rejected=rejected if preferences else None,
        tools=tuple(tools),
        negative=row.get("negative") is True,
        general=general,
        good=row.get("good") is not False,
        taught=taught,
        thoughts=spec.thoughts,
    )


def _message(answer: Any, thoughts: Thoughts | None) -> Message:
    """Returns an assistant's message with its thought in `reasoning_content`, or without it where it is stripped."""
    message = dict(answer) if isinstance(answer, dict) else {"role": "assistant", "content": answer}
    text = message.get("content")
    if thoughts is not None and isinstance(text, str) and (thought := THOUGHT.match(text)):
        message |= {"reasoning_content": thought[1].strip(), "content": text[thought.end() :]}
    if thoughts is Thoughts.STRIP:
        message.pop("reasoning_content", None)
    return message


def _taught(where: str, messages: Sequence[Message], turns: Turns) -> tuple[int, ...]:
    """Finds the assistant's turns before the last that are trained.

    Raises: BadSpec: `bad_data`: a mark that the recipe would not heed, or one that leaves the last turn out.
    """
    marked = [message for message in messages if "train" in message]
    if turns is Turns.LAST and marked:
        raise BadSpec("bad_data", f'{where}: "train" marks turns, and this recipe trains the last; write turns = "all"')
    if any(not isinstance(message["train"], bool) or message["role"] != "assistant" for message in marked):
        raise BadSpec("bad_data", f'{where}: "train" is true or false, on a turn of the assistant')
    if messages[-1].get("train") is False:
        raise BadSpec("bad_data", f"{where}: its last turn is not trained; let the row end with the last one that is")
    if turns is Turns.LAST:
        return ()
    earlier = enumerate(messages[:-1])
    return tuple(at for at, m in earlier if at and m["role"] == "assistant" and m.get("train") is not False)


def _check_structure(lessons: list[Lesson], structure: Structure) -> None:
    schema = json.loads(structure.answer_schema) if structure.answer_schema else None
    for lesson in lessons:
        for turn in lesson.turns():
            fault = (
                _negative_fault(turn)
                if lesson.negative
                else _call_fault(turn)
                if structure.form is AnswerForm.TOOL_CALL and _has_to_call(turn, lesson)
                else _json_fault(turn, schema)
                if structure.form is AnswerForm.JSON
                else None
            )
            if fault:
                raise BadSpec("bad_data", f"{lesson.where}: {fault}")
    negative = sum(lesson.negative for lesson in lessons)
    if negative < structure.negatives * len(lessons):
        raise BadSpec(
            "no_negatives",
            f"{negative} of {len(lessons)} rows teach to refuse or to call nothing, at least "
            f"{structure.negatives:.0%} must (structure.negatives); a model taught only to call will always call",
        )


def _has_to_call(turn: Lesson, lesson: Lesson) -> bool:
    """Tells whether a turn is checked as a call: it is one, or none of the row's turns is."""
    return bool(turn.answer.get("tool_calls")) or not any(one.answer.get("tool_calls") for one in lesson.turns())


def _negative_fault(lesson: Lesson) -> str | None:
    return "a negative row calls a tool" if lesson.answer.get("tool_calls") else None


def _json_fault(lesson: Lesson, schema: Mapping[str, Any] | None) -> str | None:
    try:
        document = json.loads(str(lesson.answer.get("content")))
    except ValueError as error:
        return f"the answer is not JSON: {error}"
    if schema is None:
        return None
    broken = violation(document, schema)
    return f"the answer does not satisfy the schema: {broken.message}" if broken else None


def _call_fault(lesson: Lesson) -> str | None:
    """Why a row's tool calls are wrong: each must name one of its tools, with arguments that the parameters allow."""
    known = {tool.get("function", tool).get("name"): tool.get("function", tool) for tool in lesson.tools}
    calls = lesson.answer.get("tool_calls") or []
    if not calls:
        return "the answer calls no tool, and the row is not marked negative"
    for call in calls:
        function = call.get("function", call)
        tool = known.get(function.get("name"))
        if tool is None:
            return f"the answer calls {function.get('name')!r}, the row's tools are {sorted(map(str, known))}"
        arguments = function.get("arguments", {})
        try:
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError as error:
            return f"the arguments of {function['name']} are not JSON: {error}"
        schema = tool.get("parameters") or {}
        broken = violation(arguments, schema)
        if broken:
            return f"the arguments of {function['name']} do not fit: {broken.message}"
    return None


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_answer(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("role") == "assistant" and (_filled(value.get("content")) or bool(value.get("tool_calls")))
    return _filled(value)


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    return isinstance(value.get("content"), str) or bool(value.get("tool_calls"))
