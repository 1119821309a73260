"""The ids that routers give to requests: version 7 of RFC 9562, which begins with the time, so that one is found by it.

A caller may give a request an id of its own. Where that looks like one of these, its time is taken for a hint only.
"""

RANDOM_BYTES = 10

_HEX = frozenset("0123456789abcdef")


def request_id(now_ms: int, random: bytes) -> str:
    """A new id of 32 hexadecimal digits: milliseconds since 1970 UTC, and 74 random bits of RANDOM_BYTES bytes."""
    bits = int.from_bytes(random) & (1 << 74) - 1
    tail = 7 << 76 | bits >> 62 << 64 | 0b10 << 62 | bits & (1 << 62) - 1
    return f"{now_ms & (1 << 48) - 1:012x}{tail:020x}"


def time_of(request: str) -> int | None:
    """The time that an id begins with, milliseconds since 1970 UTC; None where it has none."""
    digits = request.replace("-", "")
    if len(digits) != 32 or not _HEX.issuperset(digits) or digits[12] != "7" or digits[16] not in "89ab":
        return None
    return int(digits[:12], 16)
