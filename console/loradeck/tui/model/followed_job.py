"""One job while somebody looks at it: its figures by step, and its log, which follows the end until one moves up."""

from collections import deque
from collections.abc import Iterable
from itertools import islice

from loradeck.client.job_words import gap_notes
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.jobs import JobLogLine
from loradeck.tui.model.registry import Fetch
from loradeck.tui.text.spans import clock

STEPS = 4000
"""Steps whose figures are held; the oldest leave."""

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


class FollowedJob:
    """Events and lines of one job as they came. `fetch`: when the hub last answered, and what was in the way since."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.figures: dict[str, dict[int, float]] = {}
        """By name, then by step; of a step that was done again the later figure."""

        self.log = LogView()
        self.fetch = Fetch()
        self.last_event = (0, -1)
        """Attempt and number of the newest event that is held."""

        self.last_line: JobLogLine | None = None
        self._began: tuple[int, int, float] | None = None
        self._last: tuple[int, float] | None = None

    def add(self, events: Iterable[ExecutorEvent], lines: Iterable[JobLogLine]) -> None:
        """Add what the hub answered; what is held already changes nothing."""
        for event in events:
            if (event.attempt, event.seq) <= self.last_event:
                continue
            self.last_event = (event.attempt, event.seq)
            if report := _reported(event):
                self.log.add([report])
            if event.step is None or not event.metrics:
                continue
            if self._began is None or self._began[0] != event.attempt:
                self._began = (event.attempt, event.step, event.ts)
            self._last = (event.step, event.ts)
            for name, value in event.metrics.items():
                kept = self.figures.setdefault(name, {})
                kept[event.step] = value
                while len(kept) > STEPS:
                    del kept[min(kept)]
        for line in lines:
            if self.last_line is not None and (line.attempt, line.number) <= (
                self.last_line.attempt,
                self.last_line.number,
            ):
                continue
            self.log.add([*gap_notes(self.last_line, line), line.text])
            self.last_line = line

    def left_s(self, of: int | None) -> float | None:
        """Seconds to the last step at the speed of this attempt; None while that cannot be told."""
        if of is None or self._began is None or self._last is None:
            return None
        steps, seconds = self._last[0] - self._began[1], self._last[1] - self._began[2]
        return (of - self._last[0]) * seconds / steps if steps >= 2 and seconds > 0 else None


def _reported(event: ExecutorEvent) -> str:
    """An event in the log, with a star in front: what the executor reported, not what it printed."""
    quiet = event.type in (ExecutorEventType.PROGRESS, ExecutorEventType.HEARTBEAT) and not event.message
    if quiet:
        return ""
    at = f" {event.step}/{event.of or '?'}" if event.step is not None else ""
    code = f" {event.code}" if event.code else ""
    return f"* {clock(int(event.ts * 1000), seconds=True)} {event.type.value}{at}{code} {event.message}".rstrip()
