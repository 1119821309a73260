"""Events about a job that the agent itself makes: a start, an end that no executor reported, a failure."""

import time

from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.jobs import JobAssignment
from loradeck.schemas.link import JobEvent
from loradeck_agent.host.errors import AgentError

MARGINS = 5
"""The level from which a hub reads the margins of items."""

_READ_FROM = {"engine": 1, "offline": 1, "speed": 2}
"""Fields of an evaluation's report that came later -> the level from which a hub reads them."""


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
    """Returns an event as a hub of `level` can read it: without the fields of reports that came after that level.

    Such a hub refuses a report that has them.

    One of level 0 takes the evaluation then for one in process, as all of its own are.
    """
    report = (message.result or {}).get("report")
    if level >= MARGINS or not isinstance(report, dict) or "items" not in report:
        return message
    known = {key: value for key, value in report.items() if _READ_FROM.get(key, 0) <= level}
    lacks = {"margin"} if level else {"margin", "acc_norm"}
    known["items"] = [{key: value for key, value in item.items() if key not in lacks} for item in report["items"]]
    return message.model_copy(update={"result": {**(message.result or {}), "report": known}})
