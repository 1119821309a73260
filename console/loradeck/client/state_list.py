"""A row-by-row reader of `GET /v1/state`: a fleet's rows are many megabytes, and as objects ten times that.

    async with HubApi.to(context) as api:
        listed = await api.listed()
        for row in listed.tenants: ...

Rows are validated as they are read, and none is kept here.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from loradeck.client.errors import not_understood
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.jobs import Job
from loradeck.schemas.log import Event
from loradeck.schemas.state import HubState, HubStatus, Me, NodeRow, TenantRow

M = TypeVar("M", bound=BaseModel)

_decoder = json.JSONDecoder()
_BLANK = " \t\r\n"


@dataclass(eq=False)
class TextRows(Generic[M]):
    """Rows that are parsed from a text one by one as they are iterated over, each time anew.

    Iterating raises NotUnderstood for a row that is not one of this version.
    """

    _kind: type[M]
    _text: str
    _ends: list[tuple[int, int]]
    _where: str

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[M]:
        for start, end in self._ends:
            yield _checked(lambda text: self._kind.model_validate_json(text), self._text[start:end], self._where)


@dataclass(frozen=True)
class Listed:
    """Everything a console lists, at one rev."""

    status: HubStatus
    me: Me
    tenants: TextRows[TenantRow]
    nodes: TextRows[NodeRow]
    jobs: tuple[Job, ...]
    events: tuple[Event, ...]


StateRead = HubState | Listed
"""A hub's whole state as consoles read it: read whole, or row by row."""

_REST: dict[str, TypeAdapter[Any]] = {
    "status": TypeAdapter(HubStatus),
    "me": TypeAdapter(Me),
    "jobs": TypeAdapter(tuple[Job, ...], config={"defer_build": True}),
    "events": TypeAdapter(tuple[Event, ...], config={"defer_build": True}),
}
_ROWS: dict[str, type[BaseModel]] = {"tenants": TenantRow, "nodes": NodeRow}


def listed(body: bytes, where: str) -> Listed:
    """Splits the answer to `GET /v1/state` into its parts. It may take long: run it in a thread.

    Raises: NotUnderstood: it is not the answer of a hub of this version.
    """
    try:
        text = body.decode()
        parts: dict[str, Any] = {}
        at = _past(text, 0, "{")
        while not (parts and text[at] == "}"):
            if parts:
                at = _past(text, at, ",")
            name, at = _decoder.raw_decode(text, _blank(text, at))
            at = _blank(text, _past(text, at, ":"))
            if name in _ROWS:
                ends, at = _elements(text, at)
                parts[name] = TextRows(_ROWS[name], text, ends, where)
            else:
                start = at
                _, at = _decoder.raw_decode(text, at)
                rest = _REST.get(name)
                parts[name] = _checked(rest.validate_json, text[start:at], where) if rest is not None else None
            at = _blank(text, at)
        return Listed(**{name: parts[name] for name in (*_REST, *_ROWS)})
    except (ValueError, IndexError, KeyError) as error:
        raise not_understood("the hub's answer", where, f"{type(error).__name__}: {error}") from None


def _elements(text: str, at: int) -> tuple[list[tuple[int, int]], int]:
    """Start and end of each element of an array, and the index after the array."""
    ends: list[tuple[int, int]] = []
    at = _blank(text, _past(text, at, "["))
    while text[at] != "]":
        if ends:
            at = _blank(text, _past(text, at, ","))
        _, end = _decoder.raw_decode(text, at)
        ends.append((at, end))
        at = _blank(text, end)
    return ends, at + 1


def _past(text: str, at: int, sign: str) -> int:
    at = _blank(text, at)
    if text[at] != sign:
        raise ValueError(f"{sign!r} expected at {at}")
    return at + 1


def _blank(text: str, at: int) -> int:
    while text[at] in _BLANK:
        at += 1
    return at


def _checked(validate: Callable[[str], M], text: str, where: str) -> M:
    try:
        return validate(text)
    except ValidationError as error:
        raise not_understood("the hub's answer", where, first_wrong(error, root="the answer")) from None
