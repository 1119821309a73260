"""Log lines that somebody else can cause: one a minute for each cause, and how many more there were."""

from collections.abc import Callable

CAUSES = 100
"""Causes that are told apart in one minute; all others are counted together."""

OTHERS = "others"

A_MINUTE_S = 60.0


class MinuteLog:
    """Writes the first line of each cause in a minute, and counts the rest.

    Args:
        clock: monotonic seconds.
        say: writes a line.
    """

    def __init__(self, clock: Callable[[], float], say: Callable[[str], None]) -> None:
        self._clock = clock
        self._say = say
        self._counts: dict[str, int] = {}
        self._ends = 0.0

    def note(self, cause: str) -> None:
        """Writes that something has happened, a whole sentence, or counts it where that minute has its line."""
        now = self._clock()
        if now >= self._ends:
            for before, count in self._counts.items():
                if count > 1:
                    self._say(f"{before}, and {count - 1:,} more in that minute")
            self._counts.clear()
            self._ends = now + A_MINUTE_S
        if cause not in self._counts and len(self._counts) >= CAUSES:
            cause = OTHERS
        self._counts[cause] = self._counts.get(cause, 0) + 1
        if self._counts[cause] == 1:
            self._say(cause)
