"""Jobs in words, for the console and the command line: how far a prepare is, and what is missing of a log."""

from loradeck.rules.quality.figures import measurements
from loradeck.schemas.jobs import Job, JobLogLine, TrainSpec


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


def metrics_in_words(job: Job, joined: str = "=", between: str = " ") -> str:
    """A job's newest figures: those over rows or items with n and interval, then what its last step alone gave."""
    several, single = ([f"{name}{joined}{said}" for name, said in of.items()] for of in measurements(job.metrics))
    label = ["last step alone:"] if single and isinstance(job.spec, TrainSpec) else []
    return between.join([*several, *label, *single])


def prepare_progress(job: Job, now_ms: int) -> str:
    """`prepared 1/3, loading on gpu-02, gpu-04, 5 s`: nodes that are ready, those that are not, and seconds so far.

    `now_ms`: the hub's time, milliseconds since 1970 UTC.
    """
    seconds = max(0, now_ms - (job.started_ms or job.created_ms)) // 1000
    parts = [f"prepared {job.step or 0}/{job.of or '?'}", job.message, f"{seconds} s"]
    return ", ".join(part for part in parts if part)
