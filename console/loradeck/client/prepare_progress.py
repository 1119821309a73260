"""The progress of a promote's prepare in words, for the console and the command line."""

from loradeck.schemas.jobs import Job


def prepare_progress(job: Job, now_ms: int) -> str:
    """`prepared 1/3, loading on gpu-02, gpu-04, 5 s`: nodes that are ready, those that are not, and seconds so far.

    `now_ms`: the hub's time, milliseconds since 1970 UTC.
    """
    seconds = max(0, now_ms - (job.started_ms or job.created_ms)) // 1000
    parts = [f"prepared {job.step or 0}/{job.of or '?'}", job.message, f"{seconds} s"]
    return ", ".join(part for part in parts if part)
