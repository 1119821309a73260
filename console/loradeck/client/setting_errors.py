"""Errors in settings that a person wrote, in plain words, each with its line in the file.

pydantic's own messages name types and patterns of this program; a person needs the setting, the line and the rule.
"""

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from loradeck.schemas.ids import Digest, IncidentId, Name

Path = tuple[str | int, ...]
"""Path to a setting: keys of tables and indices of lists, as in pydantic's `loc`."""


def setting_errors(
    error: ValidationError,
    text: str = "",
    *,
    kind: type[BaseModel] | None = None,
    path: Callable[[Any], Path] = lambda problem: tuple(problem["loc"]),
) -> list[str]:
    """Writes a line for each setting that is wrong: `line 3: gate.min_exat: is not a setting that exists`.

    Values are never repeated, since one may be a secret in the wrong place.

    Args:
        text: the TOML file of the settings, for line numbers; empty if there is none.
        kind: the model that refused them, to suggest the setting that was meant.
        path: gives a problem's path in the file, if that is not its `loc`.
    """
    lines = _key_lines(text)
    out = []
    for problem in error.errors(include_input=False, include_url=False):
        at = path(problem)
        line = next((lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in lines), None)
        key = ".".join(str(part) for part in at) or ("the file" if text else error.title)
        out.append((f"line {line}: " if line else "") + f"{key}: {_message(problem, kind)}")
    return out


def did_you_mean(word: str, known: Iterator[str] | list[str]) -> str:
    """A suggestion such as `; did you mean 'promote'?`, or '' if no known word is near."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _message(problem: Any, kind: type[BaseModel] | None) -> str:
    match problem["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is not a setting that exists" + _meant(tuple(problem["loc"]), kind)
        case "string_pattern_mismatch" if problem["ctx"]["pattern"] in _PATTERNS:
            return _PATTERNS[problem["ctx"]["pattern"]]
        case _:
            message: str = problem["msg"]
            return message.removeprefix("Value error, ")


def _pattern_of(annotated: Any) -> str:
    return next(str(part.pattern) for part in get_args(annotated) if getattr(part, "pattern", None))


_PATTERNS = {
    _pattern_of(Name): "is lower-case letters, digits, '.', '_' and '-', with a letter or digit at both ends, "
    "63 characters at most",
    _pattern_of(Digest): "is a SHA-256 in 64 lower-case hexadecimal digits",
    _pattern_of(IncidentId): "begins with a letter or digit, and has letters, digits, '.', '_', ':' and '-', "
    "64 characters at most",
}


def _meant(at: Path, kind: type[BaseModel] | None) -> str:
    """A suggestion of the setting that was probably meant, among those of its table."""
    for part in at[:-1]:
        if isinstance(part, int):
            continue
        field = kind.model_fields.get(str(part)) if kind is not None else None
        kind = next(_models(field.annotation), None) if field is not None else None
    return did_you_mean(str(at[-1]), list(kind.model_fields)) if kind is not None and at else ""


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _key_lines(text: str) -> dict[Path, int]:
    """Line of each key and table of a TOML text, by its path."""
    table: Path = ()
    counts: dict[str, int] = {}
    out: dict[Path, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if match := re.match(r"\s*\[\[\s*([\w.-]+)\s*\]\]", line):
            name = match.group(1)
            table = (name, counts.get(name, 0))
            counts[name] = counts.get(name, 0) + 1
            out[table] = number
        elif match := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = tuple(match.group(1).split("."))
            out[table] = number
        elif match := re.match(r"""\s*["']?([\w-]+)["']?\s*=""", line):
            out[(*table, match.group(1))] = number
    return out
