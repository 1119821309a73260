"""Callers of a router: ids of their requests, what they have left of a minute's, and deprecated releases.

Ids are version 7 of RFC 9562, which begins with the time, so that a request is found by it. A caller may give one an id
of its own. Where that looks like one of these, its time is taken for a hint only.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from loradeck.schemas.counts import CALLER_CHARS, CALLERS_NAMED
from loradeck.schemas.table import DeprecatedRelease

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


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was left of a minute's amount at a time in seconds. It fills up evenly, within a minute."""

    level: float
    at: float

    def filled(self, per_minute: float, now: float) -> float:
        """Returns what is left now."""
        return min(per_minute, self.level + (now - self.at) * per_minute / 60)


def take(bucket: Bucket | None, amount: float, per_minute: float, now: float) -> tuple[Bucket, float]:
    """Takes an amount, if it is left. More than a whole minute's is taken from a full bucket, which is in debt then.

    `bucket`: None: nothing was taken yet.

    Returns:
        The bucket afterwards, and the seconds until the amount can be taken; 0: it was taken.
    """
    level = per_minute if bucket is None else bucket.filled(per_minute, now)
    missing = min(amount, per_minute) - level
    if missing > 0:
        return Bucket(level, now), missing * 60 / per_minute
    return Bucket(level - amount, now), 0.0


def headers(deprecated: DeprecatedRelease) -> dict[str, str]:
    """Gives the headers of a deprecated release's answers: `Deprecation` (RFC 9745) and `Sunset` (RFC 8594)."""
    said = {"Deprecation": f"@{deprecated.from_ms // 1000}"}
    if deprecated.until_ms is not None:
        until = datetime.fromtimestamp(
            deprecated.until_ms // 1000, UTC
        )  # years of four digits, by the bound of the field
        said["Sunset"] = f"{until:%a, %d %b %Y %H:%M:%S} GMT"  # in English: nothing sets a locale for times
    return said


def note(called_by: dict[str, int], caller: str, at_ms: int) -> None:
    """Notes that a caller has asked. Of many, those that asked last are kept.

    Args:
        called_by: caller -> when it asked last; it is changed.
        caller: the digest of its key, hexadecimal; what follows its beginning is left out.
        at_ms: now, milliseconds since 1970 UTC.
    """
    name = caller[:CALLER_CHARS]
    called_by.pop(name, None)
    called_by[name] = at_ms
    if len(called_by) > CALLERS_NAMED:
        del called_by[next(iter(called_by))]
