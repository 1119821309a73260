"""What is missing between two lines of a job's log, in words: nothing that was not sent passes for silence."""

from __future__ import annotations

from loradeck.schemas.jobs import JobLogLine


def between(before: JobLogLine | None, line: JobLogLine) -> list[str]:
    """Lines to put in front of one: a new attempt, and how many of its lines are not here."""
    told = []
    fresh = before is None or before.attempt != line.attempt
    if fresh and (before is not None or line.attempt > 1):
        told.append(f"-- attempt {line.attempt} --")
    missing = line.number - 1 if fresh or before is None else line.number - before.number - 1
    if missing > 0:
        told.append(f"-- {missing:,} {'line is' if missing == 1 else 'lines are'} not here --")
    return told
