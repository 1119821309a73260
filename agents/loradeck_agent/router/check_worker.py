"""Judges answers, and redacts those that are kept as samples, in a child process of the router.

One JSON line in, one JSON line out. It ends with its input. Texts are those that people read: what was asked in a
request's body, and what was answered.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from loradeck.artifacts.rows.personal_data import personal, redacted
from loradeck.artifacts.rows.text_language import language
from loradeck.schemas.content_checks import ContentChecks
from loradeck.schemas.table import ResponseChecks
from loradeck.schemas.trace import SAMPLE_CHARS

PLUGINS = "loradeck.checks"
"""The entry point under which a package offers checks: functions of a text that say whether it passes."""

_NO_JSON = (ValueError, RecursionError)
"""The errors of reading text as JSON: it is none, or its lists nest deeper than is read."""

DEADLINE_S = 2.0
"""One answer's check. The alarm's default action ends this process, wherever it is stuck."""


@dataclass
class Choice:
    """One alternative of an answer: its text, the tools that it calls, and why it ended."""

    text: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    """The tools that it calls, by their number: the name and the arguments, as far as they came."""
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
            for number, call in enumerate(message.get("tool_calls") or ()):
                asked = call.get("function") or {}
                parts = choice.calls.setdefault(call.get("index", number), ["", ""])
                parts[0] += asked.get("name") or ""
                parts[1] += asked.get("arguments") or ""
            choice.finish_reason = part.get("finish_reason") or choice.finish_reason


def assemble(answer: str, *, streamed: bool) -> list[Choice]:
    """The choices of an answer, as the engine sent it. Raises: ValueError: no JSON, or no stream of JSON events."""
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


def failed(choice: Choice, checks: ResponseChecks) -> Iterator[str]:
    """Yields the checks that a choice fails, by name, the cheapest first.

    Raises: SchemaError, Unresolvable: the route's schema itself cannot be used, so the answer is not judged.
        PluginFault: a plug-in cannot be used.
    """
    if choice.finish_reason not in checks.finish_reasons:
        yield "finish_reason"
    if choice.calls:  # what a tool is called with is not the answer's text
        if checks.content.tool_calls and not all(name and _is_object(given) for name, given in choice.calls.values()):
            yield "tool_call"
        return
    text = choice.text.strip()
    if len(text) < checks.min_chars:
        yield "empty" if not text else "short"
    if checks.max_chars is not None and len(text) > checks.max_chars:
        yield "long"
    folded = text.casefold()
    if any(phrase.casefold() in folded for phrase in checks.refusals):
        yield "refusal"
    if checks.answer_schema is not None:
        try:
            value = json.loads(text)
        except _NO_JSON:
            yield "not_json"
        else:
            if not _validator(checks.answer_schema).is_valid(value):
                yield "schema"
    yield from _content(text, checks.content)


def _content(text: str, checks: ContentChecks) -> Iterator[str]:
    if any(canary in text for canary in checks.canaries):
        yield "canary"
    if checks.repetition and runs_in_a_circle(text):
        yield "repetition"
    if checks.personal_data and personal(text):
        yield "personal_data"
    if checks.languages and language(text) not in (None, *checks.languages):
        yield "language"
    for name in checks.plugins:
        check, begun_s = _plugin(name), time.process_time()
        try:
            passes = check(text)
        except Exception as error:
            raise PluginFault(f"{name}: {type(error).__name__}") from error
        finally:
            _spent.append(time.process_time() - begun_s)
        if not passes:
            yield name


_spent: list[float] = []
"""Processor seconds that each plug-in took for the answer being judged: of all threads, without loading the plug-in."""


class PluginFault(Exception):
    """A plug-in is not installed, cannot be imported, or failed. The answer is not judged."""


@lru_cache(maxsize=64)
def _plugin(name: str) -> Callable[[str], bool]:
    """A function of the entry point `loradeck.checks`, which says whether an answer's text passes."""
    found = next(iter(entry_points(group=PLUGINS, name=name)), None)
    if found is None:
        raise PluginFault(f"no {name} is installed here under the entry point {PLUGINS}")
    try:
        loaded: Callable[[str], bool] = found.load()
    except Exception as error:
        raise PluginFault(f"{name}: {type(error).__name__}") from error
    return loaded


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except _NO_JSON:
        return False


@lru_cache(maxsize=1024)
def _validator(schema_text: str) -> Validator:
    schema = json.loads(schema_text)
    kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    # An empty registry: a schema that refers elsewhere is an error, never a download.
    validator: Validator = kind(schema, registry=Registry())
    return validator


def judge(answer: str, *, streamed: bool, checks: ResponseChecks) -> tuple[str, tuple[str, ...]] | None:
    """Judges an answer: the check that makes it bad ("": none), and those that it failed which make none bad.

    Returns None where the route's schema or one of its plug-ins cannot be used.
    """
    try:
        choices = assemble(answer, streamed=streamed)
    except (*_NO_JSON, TypeError, AttributeError):  # or of another form than either API's
        return "unreadable", ()
    if not choices:
        return "no_choice", ()
    noticed: dict[str, None] = {}
    try:
        for choice in choices:
            for name in failed(choice, checks):
                if name not in checks.content.alert_only:
                    return name, tuple(noticed)
                noticed[name] = None
    except (SchemaError, Unresolvable, ValueError, RecursionError):
        return None
    except PluginFault as error:
        _say_once(str(error))
        return None
    return "", tuple(noticed)


@lru_cache(maxsize=1024)
def _say_once(what: str) -> None:
    sys.stderr.write(f"a plug-in cannot be used, and its routes' answers go unchecked: {what}\n")
    sys.stderr.flush()


def main() -> None:
    """Judges the answers on standard input until it ends."""
    os.nice(5)  # callers first
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the router's terminal is the router's to handle
    verdicts = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a plug-in prints goes into the router's log
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
        task = json.loads(line)
        said = _told(task) if "question" in task else _judged(task)
        signal.setitimer(signal.ITIMER_REAL, 0)
        verdicts.write(json.dumps({"n": task["n"], **said}) + "\n")
        verdicts.flush()


def _judged(task: dict[str, Any]) -> dict[str, Any]:
    checks = ResponseChecks.model_validate(task["checks"])
    _spent.clear()
    fault, noticed = judge(task["answer"], streamed=task["sse"], checks=checks) or (None, ())
    return {"fault": fault, "noticed": noticed} | ({"model_s": sum(_spent)} if _spent else {})


def _told(task: dict[str, Any]) -> dict[str, Any]:
    begun_s = time.process_time()
    texts = texts_of(task["question"], task["answer"], streamed=task["sse"])
    if texts is not None and task["redacted"]:
        texts = redacted(texts[0]), redacted(texts[1])
    chars = len(texts[0]) if texts is not None else 0
    if texts is not None:
        texts = _unicode(end_of(texts[0])), _unicode(beginning_of(texts[1]))
    said: dict[str, Any] = dict(zip(("question", "answer"), texts or (None, None), strict=True)) | {"chars": chars}
    return said | ({"shown_s": time.process_time() - begun_s} if task["shown"] else {})


def _unicode(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON can write and no file or message can hold."""
    return text.encode(errors="replace").decode()


def texts_of(question: str, answer: str, *, streamed: bool) -> tuple[str, str] | None:
    """The texts of a request and its answer, cut to what is looked at; None: the request has none.

    Args:
        question: the request's body.
        answer: the answer, as the engine sent it. One that is none is taken as it is.
    """
    try:
        asked = question_of(question)
    except _NO_JSON:
        return None
    try:
        said = "\n".join(_spoken(choice) for choice in assemble(answer, streamed=streamed))
    except (*_NO_JSON, TypeError, AttributeError):
        said = answer
    return asked[-LOOKED_AT:], said[:LOOKED_AT]


def _spoken(choice: Choice) -> str:
    return "\n".join((choice.text, *(f"{name}({given})" for name, given in choice.calls.values()))).strip("\n")


# ---- texts -----------------------------------------------------------------------------------------------------

LOOKED_AT = 16 * SAMPLE_CHARS
"""Characters of a text that are looked at, from the side that is kept; more of it costs more than it tells."""

_CUT = "[...]"


def question_of(body: str) -> str:
    """Returns what a request of either API asked, a line for each message; "" where it has no text.

    Raises: ValueError: the body is no JSON object.
    """
    asked = json.loads(body)
    if not isinstance(asked, dict):
        raise ValueError("a request that is no object")
    messages = asked.get("messages")
    if not isinstance(messages, list):
        prompt = asked.get("prompt")
        return "\n".join(part for part in (prompt if isinstance(prompt, list) else [prompt]) if isinstance(part, str))
    return "\n".join(_line(message) for message in messages if isinstance(message, dict))


def _line(message: dict[str, Any]) -> str:
    content = message.get("content")
    parts: Iterable[Any] = content if isinstance(content, list) else [content]
    return f"{message.get('role')}: {' '.join(filter(None, map(_text, parts)))}"


def _text(part: Any) -> str:
    """The text of a part of a message; of another kind of part its name."""
    if isinstance(part, dict):
        text = part.get("text")
        return text if isinstance(text, str) else f"[{part.get('type')}]"
    return part if isinstance(part, str) else ""


def end_of(text: str) -> str:
    """The end of a text, as long as a sample may be."""
    return text if len(text) <= SAMPLE_CHARS else _CUT + text[len(_CUT) - SAMPLE_CHARS :]


def beginning_of(text: str) -> str:
    """The beginning of a text, as long as a sample may be."""
    return text if len(text) <= SAMPLE_CHARS else text[: SAMPLE_CHARS - len(_CUT)] + _CUT


PERIODS = 64
"""Words after which a text may begin again at most, to be called a circle."""

ROUNDS = 5
"""Times that the same words come one after the other at least."""

LEAST_WORDS = 20
"""Words that a circle has at least, all its rounds together: a list may well say "no, no, no"."""

_LAST_WORDS = 4000


def runs_in_a_circle(text: str) -> bool:
    """Tells whether a text says the same words again and again, one round after the other, anywhere near its end."""
    words = text.split()[-_LAST_WORDS:]
    for period in range(1, min(PERIODS, len(words) // ROUNDS) + 1):
        same, needed = 0, max((ROUNDS - 1) * period, LEAST_WORDS - period)
        for word, again in zip(words, words[period:], strict=False):
            same = same + 1 if word == again else 0
            if same >= needed:
                return True
    return False


if __name__ == "__main__":
    main()
