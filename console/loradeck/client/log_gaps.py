"""Notes on missing lines of a job's log, so that a gap is not taken for silence."""

from loradeck.schemas.jobs import JobLogLine


def gap_notes(before: JobLogLine | None, line: JobLogLine) -> list[str]:
    """Notes to print before a log line: a new attempt, and the number of lines that are missing."""
    notes = []
    fresh = before is None or before.attempt != line.attempt
    if fresh and (before is not None or line.attempt > 1):
        notes.append(f"-- attempt {line.attempt} --")
    missing = line.number - 1 if fresh or before is None else line.number - before.number - 1
    if missing > 0:
        notes.append(f"-- {missing:,} {'line is' if missing == 1 else 'lines are'} not here --")
    return notes
