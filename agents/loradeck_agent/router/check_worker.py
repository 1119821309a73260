"""Judges answers in a child process of the router: one JSON line in, one JSON line out. It ends with its input."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from loradeck.schemas.route import ResponseChecks

DEADLINE_S = 2.0
"""One answer's check. The alarm's default action ends this process, wherever it is stuck."""


@dataclass
class Choice:
    """One alternative of an answer: its text, whether it calls tools, and why it ended."""

    text: str = ""
    tools: bool = False
    finish_reason: str | None = None


@dataclass
class _Assembly:
    choices: dict[int, Choice] = field(default_factory=dict)

    def add(self, document: dict[str, Any]) -> None:
        """Adds one document: a whole answer, or one event of a stream, of either API."""
        for part in document.get("choices") or ():
            choice = self.choices.setdefault(part.get("index", 0), Choice())
            message = part.get("message") or part.get("delta") or {}
            choice.text += message.get("content") or part.get("text") or ""
            choice.tools = choice.tools or bool(message.get("tool_calls"))
            choice.finish_reason = part.get("finish_reason") or choice.finish_reason


def assemble(answer: str, *, streamed: bool) -> list[Choice]:
    """The choices of an answer, as the engine sent it.

    Raises: ValueError: it is not JSON, or not a stream of JSON events.
    """
    assembly = _Assembly()
    for document in _documents(answer, streamed):
        if not isinstance(document, dict):
            raise ValueError("an answer that is no object")
        assembly.add(document)
    return [assembly.choices[index] for index in sorted(assembly.choices)]


def _documents(answer: str, streamed: bool) -> Iterator[Any]:
    if not streamed:
        yield json.loads(answer)
        return
    for line in answer.splitlines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data and data != "[DONE]":
            yield json.loads(data)


def fault(choice: Choice, checks: ResponseChecks) -> str | None:
    """The first check that a choice fails, by name; None when it passes all of them.

    Raises: SchemaError, Unresolvable: the route's schema itself cannot be used, so the answer is not judged.
    """
    if choice.finish_reason not in checks.finish_reasons:
        return "finish_reason"
    if choice.tools:
        return None  # what a tool is called with is not the answer's text
    text = choice.text.strip()
    if len(text) < checks.min_chars:
        return "empty" if not text else "short"
    if checks.max_chars is not None and len(text) > checks.max_chars:
        return "long"
    folded = text.casefold()
    if any(phrase.casefold() in folded for phrase in checks.refusals):
        return "refusal"
    if checks.answer_schema is not None:
        try:
            value = json.loads(text)
        except ValueError:
            return "not_json"
        if not _validator(checks.answer_schema).is_valid(value):
            return "schema"
    return None


@lru_cache(maxsize=1024)
def _validator(schema_text: str) -> Validator:
    schema = json.loads(schema_text)
    kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    # An empty registry: a schema that refers elsewhere is an error, never a download.
    validator: Validator = kind(schema, registry=Registry())
    return validator


def judge(answer: str, *, streamed: bool, checks: ResponseChecks) -> str | None:
    """Names the check that an answer fails, which makes it bad; "": none; None: its route's schema cannot be used."""
    try:
        choices = assemble(answer, streamed=streamed)
    except ValueError:
        return "unreadable"
    try:
        return next(filter(None, (fault(choice, checks) for choice in choices)), "") if choices else "no_choice"
    except (SchemaError, Unresolvable, ValueError):
        return None


def main() -> None:
    """Judges the answers on standard input until it ends."""
    os.nice(5)  # callers first
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the router's terminal is the router's to handle
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
        task = json.loads(line)
        checks = ResponseChecks.model_validate(task["checks"])
        failed = judge(task["answer"], streamed=task["sse"], checks=checks)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(json.dumps({"n": task["n"], "fault": failed}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
