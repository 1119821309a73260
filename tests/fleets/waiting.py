"""Waiting for something that others bring about: it fails, with what was waited for, where that never comes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 60.0
"""What others do on a machine with a lot to do is done by then."""


async def until(condition: Callable[[], Any], what: str = "it comes about", seconds: float = PATIENCE_S) -> Any:
    """Asks again and again until the answer is true, and returns it. The condition may be a coroutine function.

    Raises:
        AssertionError: that took more than `seconds`; its text names `what`.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.005)


def wait_until(what: str, condition: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """Does the same for a test without an event loop.

    Raises:
        AssertionError: that took more than `seconds`; its text names `what`.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
