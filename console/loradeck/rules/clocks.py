"""Finds out when a clock cannot be trusted: the process stood still, or the wall clock was set. Says times in words."""

from datetime import UTC, datetime

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
"""Milliseconds of a minute, an hour and a day."""

PAUSE_S = 2.0
"""Seconds without a look at the clock from which on the process itself did not run. It looks several times a second."""

STEP_MS = 60_000
"""A wall clock that differs by more than this from what it should show was set, and that is said."""


def slept(gap_s: float) -> float:
    """The part of the time between two looks at a clock in which the process did not run: it heard nobody then, and so
    holds that time against nobody.
    """
    return gap_s if gap_s > PAUSE_S else 0.0


def stamp(now_ms: int, newest_ms: int) -> int:
    """The stamp of an event after one with the stamp `newest_ms`. Stamps never go back, whatever the wall clock does.

    So a time names one rev: the last one that was committed until then.
    """
    return max(now_ms, newest_ms)


def step(wall_ms: int, passed_s: float) -> int:
    """By how many milliseconds the wall clock was set while `passed_s` seconds passed and it moved by `wall_ms`.

    0 for what slewing explains. Negative: it was set back.
    """
    off = wall_ms - round(passed_s * 1000)
    return off if abs(off) > STEP_MS else 0


def utc(ms: int) -> str:
    """Formats a time as '2026-12-24 18:00 UTC'; a time beyond the calendar in milliseconds since 1970."""
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"
