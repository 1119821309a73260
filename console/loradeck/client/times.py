"""Times as people type them (`14:05Z`, `2026-03-01T14:05+01:00`, `20 minutes ago`), and as they are shown."""

import re
from datetime import UTC, datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"(\d{1,6})\s*(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)\s+ago")
_PROMETHEUS = re.compile(r"(\S+ \S+) \+0000 UTC")
"""A time as `humanizeTimestamp` of Prometheus alert templates writes it."""

_CLOCK = re.compile(r"(\d\d?):(\d\d)(?::(\d\d))?(Z|[+-]\d\d:?\d\d)?")


class MomentError(ValueError):
    """The text is no time, or not one that is allowed here. `fix`: what to type; `code`: 'usage' or 'no_zone'."""

    def __init__(self, what: str, fix: str, code: str = "usage") -> None:
        super().__init__(what)
        self.fix = fix
        self.code = code


def moment(text: str, *, now_ms: int, zoneless: bool, ahead: bool = False) -> int:
    """Parses a time into milliseconds since 1970 UTC.

    It accepts `2026-03-01T14:05Z`, `14:05Z` (the last one passed), `14:05+01:00` and `20m ago`.

    Args:
        ahead: accept future times too; a bare clock time is then the next one.
        zoneless: take a time without a zone as this machine's local time. Only where a person sees the result before it
            counts.

    Raises: MomentError: not a time, without a zone where one is needed, in the future, or a local time that its day
    does not have, or has twice.
    """
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    parsed = _parse(text, now)
    if parsed is None:
        raise MomentError("this is not a time", "give 2026-03-01T14:05Z, 14:05Z, a zone such as +01:00, or 20m ago")
    when, bare_clock = parsed
    if when.tzinfo is None and not zoneless:
        raise MomentError(
            "a script must give a time with its zone", f"write {text}Z for UTC, or add the zone", "no_zone"
        )
    here = now if when.tzinfo is not None else now.astimezone().replace(tzinfo=None)
    if bare_clock and (when > here) is not ahead:
        when += timedelta(days=1 if ahead else -1)
    if when.tzinfo is None:
        when = _local(when)
    if when > now and not ahead:
        raise MomentError("this time has not come yet", "give a time in the past")
    return int(when.timestamp() * 1000)


def _local(naive: datetime) -> datetime:
    """A local time with its offset. Raises: MomentError: by a change of clocks it names no moment, or two."""
    try:
        first, second = (naive.replace(fold=fold).astimezone() for fold in (0, 1))
    except (ValueError, OverflowError):
        raise MomentError("this time is too long ago", "give a time since 1970") from None
    if first.utcoffset() == second.utcoffset():
        return first
    earlier, later = sorted((first.astimezone(UTC), second.astimezone(UTC)))  # which is first differs between Pythons
    fix = f"give {earlier:%Y-%m-%dT%H:%MZ} or {later:%Y-%m-%dT%H:%MZ}"
    if first.replace(tzinfo=None) == naive:
        raise MomentError(f"clocks here were put back: {naive:%H:%M} came twice on {naive:%Y-%m-%d}", fix)
    raise MomentError(f"clocks here were put forward: {naive:%Y-%m-%d} has no {naive:%H:%M}", fix)


def stamp(ms: int) -> str:
    """Formats milliseconds since 1970 UTC with the date: `2026-03-01 03:12:44Z`."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _parse(text: str, now: datetime) -> tuple[datetime, bool] | None:
    """Parses a time; the flag says whether only a clock time was given. None if it is not a time."""
    word = text.strip().replace("z", "Z")
    try:
        if ago := _AGO.fullmatch(word):
            return now - timedelta(**{_UNITS[ago[2][0]]: int(ago[1])}), False
        if written := _PROMETHEUS.fullmatch(word):
            return datetime.fromisoformat(f"{written[1]}+00:00"), False
        clock = _CLOCK.fullmatch(word)
        if not clock:
            return datetime.fromisoformat(word), False
        hour, minute, second, zone = clock.groups()
        stamp = f"{int(hour):02d}:{minute}:{second or '00'}"
        if zone is None:
            today = now.astimezone().date()
            return datetime.fromisoformat(f"{today}T{stamp}"), True
        offset = datetime.fromisoformat(f"2000-01-01T{stamp}{zone}").tzinfo
        return datetime.fromisoformat(f"{now.astimezone(offset).date()}T{stamp}{zone}"), True
    except (ValueError, OverflowError):
        return None
