"""Names, digests and the canonical JSON that digests are computed from.

Every identifier in Loradeck is either a human name (tenant, route, adapter, node) or the SHA-256 of a canonical JSON
document: UTF-8, keys sorted, no spaces, no NaN. Manifests hold no floats, so that any language can recompute their
digests; events may hold settings with floats, written in their shortest form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from operator import eq, not_
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hexadecimal."""

GENESIS = "0" * 64
"""`prev_hash` of a log's first event, and the hash of an empty log. Here, so that a node need not know events."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
"""A tenant, route, adapter or node: safe as a URL segment, a folder name and a metric label."""

IncidentId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
"""An incident's id: that of another system, such as INC-2210, or one that the hub has made."""

PointerKey: TypeAlias = tuple[str, str]
"""(tenant, route): the identity of a pointer."""

Fence: TypeAlias = tuple[int, int]
"""(epoch, generation): the identity of a pointer's move. A later move has a higher one."""

Ticket = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/#-]*$", max_length=100)]
"""The id of a change ticket in another system, such as CHG0031337."""

Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)]
"""A person's reason for an action: at most 500 characters, stripped."""

LARGEST_INT = 2**63 - 1
"""The largest whole number that the store can hold or compare."""

Whole = Annotated[int, Field(ge=-(2**63), lt=2**64)]
"""A whole number in what a node says: as large as a counter of a driver or kernel, and no larger."""

LINE = 2000
"""Most characters of a `Line`."""

Line = Annotated[str, BeforeValidator(lambda said: said[:LINE] if isinstance(said, str) else said)]
"""A line of text in what a node says. More than `LINE` characters are cut off: it explains, and decides nothing."""


def json_bytes(most: int) -> AfterValidator:
    """A bound on a free document in what a node says: as JSON it has at most so many bytes."""

    def within(said: dict[str, Any] | None) -> dict[str, Any] | None:
        if said is not None and len(json.dumps(said)) > most:
            raise ValueError(f"it has more than {most} bytes as JSON")
        return said

    return AfterValidator(within)


Label = Annotated[str, StringConstraints(max_length=253)]
"""A node's label, or its value. They decide where pointers are placed, so that none is cut off."""

SHORT = 6
"""Characters of a digest that the console and the CLI print."""


class Role(StrEnum):
    """What a token may do. Each role may do what those before it may; `agent` stands apart."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    RELEASER = "releaser"
    AGENT = "agent"

    def covers(self, least: Role) -> bool:
        """Tells whether this role may do what `least` may. `agent` covers and is covered by itself alone."""
        if Role.AGENT in (self, least):
            return self is least
        ladder = (Role.VIEWER, Role.OPERATOR, Role.RELEASER)
        return ladder.index(self) >= ladder.index(least)


class Resource(StrEnum):
    """The parts of the hub's API that a token may be for: the tags of `/openapi.json`."""

    STATE = "state"  # the lists and the feed of consoles
    TENANTS = "tenants"
    MOVES = "moves"
    CANDIDATES = "candidates"
    REWIND = "rewind"
    REGISTRY = "registry"
    REVIEWS = "reviews"
    BLOBS = "blobs"
    ATTESTATIONS = "attestations"
    JOBS = "jobs"
    NODES = "nodes"
    EVENTS = "events"
    HEALTH = "health"  # metrics
    NOTICES = "notices"
    INCIDENTS = "incidents"
    FEEDBACK = "feedback"  # what callers say of answers, with its texts


class Wire(BaseModel):
    """Base of models that travel between processes of different versions: unknown fields are ignored.

    Here and in `Strict` a validator is built when it is first used: no process uses more than a part of them, and an
    agent has little memory.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class OfPointer(Wire):
    """Base class of messages and rows that are about one pointer."""

    tenant: Name
    route: Name

    @property
    def key(self) -> PointerKey:
        """The pointer, (tenant, route)."""
        return (self.tenant, self.route)


class Strict(BaseModel):
    """Base of models that a person or a digest depends on: unknown fields are an error, never dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


YEAR_10000_MS = 253_402_300_800_000
"""Milliseconds since 1970 UTC before which a day has a year of four digits, as headers and clocks write it."""


def added(default: Any, description: str | None = None, **limits: Any) -> Any:
    """Declares a field that a document got after its first version, and leaves it out where it has its default.

    A reader of the version before may refuse what it does not know, and digests of what is stored must stay. `default`:
    `dict` stands for an empty one. `limits`: as of pydantic's `Field`.
    """
    if default is dict:
        return Field(default_factory=dict, exclude_if=not_, description=description, **limits)
    absent = _is_none if default is None else partial(eq, default) if default else not_
    return Field(default, exclude_if=absent, description=description, **limits)


def _is_none(value: object) -> bool:
    return value is None


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical_json(value: BaseModel | Mapping[str, Any]) -> bytes:
    """Serialises a document to the one byte string that is hashed: sorted keys, no spaces, UTF-8, no NaN.

    Raises: ValueError: the document holds NaN or an infinity.
    """
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return _canonical(data).encode()


def digest_of(value: BaseModel | Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of a document."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def short(digest: str | None) -> str:
    """The first characters of a digest, for people; `-` for None."""
    return digest[:SHORT] if digest else "-"
