"""Events of a job for the hub that the agent itself makes, and the lines that its executor prints.

The agent's events are a start, an end that no executor reported, a failure.
"""

import time
from collections import deque
from pathlib import Path

from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.jobs import RECIPES, JobAssignment
from loradeck.schemas.link import LOG_LINE, LOG_LINES, JobEvent
from loradeck_agent.host.errors import AgentError

_LATER = frozenset({"engine", "offline", "speed"})
"""Fields of an evaluation's report that hubs of level 0 do not read."""

_LATER_OF_ITEMS = frozenset({"margin", "acc_norm"})
"""Likewise of its items."""


def job_event(
    job: JobAssignment, seq: int, type_: ExecutorEventType, message: str = "", code: str | None = None
) -> ExecutorEvent:
    """An event of a job's present attempt. `seq` is its number among the attempt's events."""
    return ExecutorEvent(
        run=job.id, attempt=job.attempt, seq=seq, ts=time.time(), type=type_, message=message, code=code
    )


def failure(job: JobAssignment, seq: int, error: AgentError) -> ExecutorEvent:
    """The event that ends an attempt with an error."""
    message = error.sentence
    return job_event(job, seq, ExecutorEventType.FAILED, message[:1000], error.code)


def as_read(message: JobEvent, level: int) -> JobEvent:
    """Returns an event as a hub of `level` can read it, by `schemas.jobs.RECIPES`.

    One of level 0 refuses a report with fields that came later. Without them it takes the evaluation for one in
    process, as all of its own are.
    """
    report = (message.result or {}).get("report")
    if level >= RECIPES or not isinstance(report, dict) or "items" not in report:
        return message
    known = {key: value for key, value in report.items() if key not in _LATER}
    known["items"] = [
        {key: value for key, value in item.items() if key not in _LATER_OF_ITEMS} for item in report["items"]
    ]
    return message.model_copy(update={"result": {**(message.result or {}), "report": known}})


_CHUNK = 1 << 20
_AT_ONCE = 4
"""Chunks read in one call: a flood is caught up with over several calls, and never held in memory."""


class LogTail:
    """Lines of one log, numbered from 1. More than LOG_LINES that wait push out the oldest; the numbers show it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = b""
        self._number = 0
        self._waiting: deque[str] = deque(maxlen=LOG_LINES)

    def read(self, *, ended: bool = False) -> None:
        """Reads the lines written since the last call. `ended`: nobody writes any more, so a last half line counts."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                for _ in range(_AT_ONCE):
                    data = file.read(_CHUNK)
                    if not data:
                        break
                    self._at += len(data)
                    *lines, self._rest = (self._rest + data).split(b"\n")
                    if len(self._rest) > _CHUNK:  # no line at all: keep its beginning
                        self._rest = self._rest[: 4 * LOG_LINE]
                    self._number += len(lines)
                    self._waiting.extend(_text(line) for line in lines[-LOG_LINES:])
        except FileNotFoundError:
            return
        if ended and self._rest:
            self._number += 1
            self._waiting.append(_text(self._rest))
            self._rest = b""

    def waiting(self) -> tuple[int, tuple[str, ...]]:
        """Number of the first line that was not sent yet, and those lines."""
        return self._number - len(self._waiting) + 1, tuple(self._waiting)

    def sent(self) -> None:
        """The waiting lines have been sent."""
        self._waiting.clear()


def _text(line: bytes) -> str:
    """Decodes one line. A progress bar that overwrites itself counts as it stood last."""
    last = line.rstrip(b"\r").rpartition(b"\r")[2]
    return last[: 4 * LOG_LINE].decode("utf-8", "replace")[:LOG_LINE]
