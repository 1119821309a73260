"""The last lines that jobs' executors printed, in memory: for people who follow a job or ask why it failed.

A node sends the newest lines it has when it cannot send all; the numbers of the lines then show what is missing.
"""

from collections import OrderedDict, deque

from loradeck.schemas.jobs import JobLogLine
from loradeck.schemas.link import JobLog

KEPT_LINES = 1000
KEPT_JOBS = 64
"""Jobs whose lines are kept, those that printed last."""


class JobLogs:
    """Bounded: KEPT_LINES lines of each of KEPT_JOBS jobs."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[JobLogLine]] = OrderedDict()

    def take(self, message: JobLog) -> None:
        """Lines of one attempt. What is here already, or older, is left out."""
        kept = self._lines.setdefault(message.job, deque(maxlen=KEPT_LINES))
        self._lines.move_to_end(message.job)
        last = (kept[-1].attempt, kept[-1].number) if kept else (0, 0)
        for i, text in enumerate(message.lines):
            number = message.first + i
            if (message.attempt, number) > last:
                kept.append(JobLogLine(attempt=message.attempt, number=number, text=text))
        while len(self._lines) > KEPT_JOBS:
            self._lines.popitem(last=False)

    def after(self, job: str, attempt: int, number: int) -> list[JobLogLine]:
        """Lines after one that is known; (0, 0): all that are kept."""
        return [line for line in self._lines.get(job, ()) if (line.attempt, line.number) > (attempt, number)]
