"""A log that grows while somebody reads it: it follows the end until one moves up, and then stays where one is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

KEPT = 5000
"""Lines held; older ones leave."""


class LogView:
    """Lines are counted from 0 on as they come, so that a place in the log stays the same line."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._end = 0
        self._top = 0
        self._left_at = 0
        self.following = True

    def add(self, lines: Iterable[str]) -> None:
        """New lines at the end."""
        for line in lines:
            self._lines.append(line)
            self._end += 1

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def _first(self) -> int:
        return self._end - len(self._lines)

    def top(self, height: int) -> int:
        """The line on top of a window."""
        lowest = max(self._first, self._end - height)
        return lowest if self.following else max(self._first, min(self._top, lowest))

    def window(self, height: int) -> list[str]:
        """The lines in view."""
        at = self.top(height) - self._first
        return list(islice(self._lines, at, at + height))

    def move(self, by: int, height: int) -> None:
        """Up (negative) or down. Moving up stops following; the end is followed again only when asked for."""
        if by < 0 and self.following:
            self._left_at = self._end
            self._top, self.following = self.top(height), False
        if not self.following:
            lowest = max(self._first, self._end - height)
            self._top = max(self._first, min(self.top(height) + by, lowest))

    def follow(self) -> None:
        """Back to the end, and on with it."""
        self.following = True

    @property
    def new(self) -> int:
        """Lines that came since following stopped."""
        return 0 if self.following else self._end - self._left_at
