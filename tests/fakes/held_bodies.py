"""Readers of bodies for `BodyReader`'s child that stand still over a body which names a pipe, while a test holds it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

PATIENCE_S = 150.0
"""For `body_reader.DEADLINE_S`: on a busy machine a child may take longer to start than a body may to be read."""


async def held(gate: Path, request: asyncio.Task[Any]) -> int:
    """Opens the pipe that a request's body names, once the child reads it. Closing the file lets the child go on."""
    while True:
        try:
            return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet; one that waits here would wait for ever for a child that has ended
            assert not request.done(), "it was answered, and its body was not read in a child"
            await asyncio.sleep(0.01)


def router_body(raw: bytes) -> bytes:
    """Reads a request as routers do."""
    from loradeck_agent.router.request_body import read

    _stand_still(raw)
    return read(raw)


def chat(raw: bytes) -> bytes:
    """Reads a chat as the embedded engine does."""
    from loradeck_agent.embedded.openai import read_chat

    _stand_still(raw)
    return read_chat(raw)


def completion(raw: bytes) -> bytes:
    """Reads a completion as the embedded engine does."""
    from loradeck_agent.embedded.openai import read_completion

    _stand_still(raw)
    return read_completion(raw)


def _stand_still(raw: bytes) -> None:
    gate = json.loads(raw).get("user")
    if gate is not None:
        Path(gate).read_bytes()
