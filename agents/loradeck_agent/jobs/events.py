"""Events about a job that the agent itself makes: a start, an end that no executor reported, a failure."""

import time

from loradeck.schemas.jobs import ExecutorEvent, ExecutorEventType, JobAssignment
from loradeck_agent.host.errors import AgentError


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
