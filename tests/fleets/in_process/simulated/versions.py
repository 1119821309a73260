"""Links on which one side is of the version before: what that version does not know never reaches the other one.

Neither program is another one for it. A message loses what version 1 of the wire does not have, as it does when that
version's reader passes over it or its writer never sends it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from loradeck.schemas.link import Ack, Hello
from loradeck.schemas.protocol import PROTOCOL

BEFORE = PROTOCOL - 1

UP: dict[str, tuple[str, ...]] = {
    "hello": ("witness", "protocol", "features"),
    "ack": ("level", "boot", "load", "rev"),
}
DOWN: dict[str, tuple[str, ...]] = {
    "welcome": ("protocol", "keys"),
    "desired": ("position",),
    "bookmark": ("position",),
    "job": ("epoch",),
    "job_cancel": ("epoch",),
    "job_noted": ("epoch",),
    "node_order": ("epoch",),
}
"""Type of a message -> the fields that are new in this version."""

NEW_MESSAGES = ("canary_ask", "challenge", "trust_roots")
ENTRY = ("callers", "assignment", "log", "incarnation", "rev")
"""Fields of an entry that an earlier router passes over without harm."""

ACTED_ON = ("candidate", "residency", "needs")
"""Those that it would pass over with harm: it would serve something else than it acknowledges."""

assert set(UP["hello"]) <= set(Hello.model_fields)
assert set(UP["ack"]) <= set(Ack.model_fields)


def upward(text: str) -> str:
    """A node's message as a link to or from the version before carries it."""
    return _without(json.loads(text), UP)


def downward(text: str, fail: Callable[..., None], node: str) -> str | None:
    """A hub's message on such a link; None: one that the version before does not know. `fail` ends the run."""
    message = json.loads(text)
    if message["type"] in NEW_MESSAGES:
        return None
    for entry in message.get("entries", ()):
        if "body" in entry:
            fail("a signed text was sent to a node of the version before", node)
        for name in ACTED_ON:
            if name in entry:
                fail("a router was given what it lacks", node, f"{entry['tenant']}/{entry['route']}", name)
        for name in ENTRY:
            entry.pop(name, None)
    return _without(message, DOWN)


def _without(message: dict[str, Any], new: dict[str, tuple[str, ...]]) -> str:
    for name in new.get(message["type"], ()):
        message.pop(name, None)
    return json.dumps(message, separators=(",", ":"))
