"""What callers of a deprecated release are told, and which of them are named to the hub."""

from datetime import UTC, datetime

from loradeck.schemas.counts import CALLER_CHARS, CALLERS_NAMED
from loradeck.schemas.table import DeprecatedRelease


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
