"""What the console follows of one job while somebody looks at it: figures by step, and what it printed."""

from __future__ import annotations

from collections.abc import Iterable

from loradeck.client.errors import ClientError
from loradeck.client.log_gaps import gap_notes
from loradeck.schemas.jobs import ExecutorEvent, ExecutorEventType, JobLogLine
from loradeck.tui.hub.port import Port
from loradeck.tui.lines.outcome import said
from loradeck.tui.model.registry import Fetch
from loradeck.tui.text.log_view import LogView
from loradeck.tui.text.spans import clock

STEPS = 4000
"""Steps whose figures are held; the oldest leave."""


class Following:
    """One job. `fetch` says when the hub last answered and what stood in the way since."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.figures: dict[str, dict[int, float]] = {}
        """By name, then by step; of a step that was done again the later figure."""

        self.log = LogView()
        self.fetch = Fetch()
        self._event = (0, -1)
        self._line: JobLogLine | None = None
        self._began: tuple[int, int, float] | None = None
        self._last: tuple[int, float] | None = None

    async def poll(self, port: Port, now: float) -> None:
        """Ask for what is new. `now`: seconds of the console's clock."""
        self.fetch.running, self.fetch.tried = True, now
        line = self._line
        try:
            events = await port.job_events(self.job, *self._event)
            lines = await port.job_log(self.job, line.attempt if line else 0, line.number if line else 0)
        except ClientError as error:
            self.fetch.trouble = said(error)
        else:
            self.fetch.at, self.fetch.trouble = now, ""
            self.take(events, lines)
        finally:
            self.fetch.running = False

    def take(self, events: Iterable[ExecutorEvent], lines: Iterable[JobLogLine]) -> None:
        """What the hub answered; what is held already changes nothing."""
        for event in events:
            if (event.attempt, event.seq) <= self._event:
                continue
            self._event = (event.attempt, event.seq)
            if told := _told(event):
                self.log.take([told])
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
            if self._line is not None and (line.attempt, line.number) <= (self._line.attempt, self._line.number):
                continue
            self.log.take([*gap_notes(self._line, line), line.text])
            self._line = line

    def left_s(self, of: int | None) -> float | None:
        """Seconds to the last step at the speed of this attempt; None while that cannot be told."""
        if of is None or self._began is None or self._last is None:
            return None
        steps, seconds = self._last[0] - self._began[1], self._last[1] - self._began[2]
        return (of - self._last[0]) * seconds / steps if steps >= 2 and seconds > 0 else None


def _told(event: ExecutorEvent) -> str:
    """An event in the log, with a star in front: what the executor reported, not what it printed."""
    quiet = event.type in (ExecutorEventType.PROGRESS, ExecutorEventType.HEARTBEAT) and not event.message
    if quiet:
        return ""
    at = f" {event.step}/{event.of or '?'}" if event.step is not None else ""
    code = f" {event.code}" if event.code else ""
    return f"* {clock(int(event.ts * 1000), seconds=True)} {event.type.value}{at}{code} {event.message}".rstrip()
