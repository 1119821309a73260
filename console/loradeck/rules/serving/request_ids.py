"""The ids that routers give to requests: version 7 of RFC 9562, which begins with the time, so that one is found by it.

A caller may give a request an id of its own. Where that looks like one of these, its time is taken for a hint only.
"""

from __future__ import annotations

import re

RANDOM_BYTES = 10

_VERSION_7 = re.compile(r"([0-9a-f]{8})-?([0-9a-f]{4})-?7[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}")


def request_id(now_ms: int, random: bytes) -> str:
    """A new id of 32 hexadecimal digits: milliseconds since 1970 UTC, and 74 random bits of RANDOM_BYTES bytes."""
    bits = int.from_bytes(random) & (1 << 74) - 1
    tail = 7 << 76 | bits >> 62 << 64 | 0b10 << 62 | bits & (1 << 62) - 1
    return f"{now_ms & (1 << 48) - 1:012x}{tail:020x}"


def time_of(request: str) -> int | None:
    """The time that an id begins with, milliseconds since 1970 UTC; None where it has none."""
    found = _VERSION_7.fullmatch(request)
    return int(found[1] + found[2], 16) if found else None
