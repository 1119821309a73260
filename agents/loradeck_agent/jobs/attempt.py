"""The folder of one attempt at a job, which is the whole truth about it.

`job.json` holds the job and what works on it, `events.jsonl` the executor's events. So an agent that is started again
finds what an earlier one began.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from loradeck.artifacts.staging import remove
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.ids import Wire
from loradeck.schemas.jobs import JobAssignment, TrainSpec
from loradeck.schemas.training import Weights
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.job_user import JobUser, open_plain, take
from loradeck_agent.host.state_folder import fsync_folder, write_durably
from loradeck_agent.store.checkpoints import KEPT_S
from loradeck_agent.store.fetch import disk_error

log = logging.getLogger(__name__)

LOG_CHARS = 2000
"""Longest end of a failed attempt's log and traceback that is sent with the job."""


class Outcome(Wire):
    """The result of an ended attempt, which its folder keeps for the sender of metrics."""

    type: ExecutorEventType
    code: str = ""
    names: dict[str, str] = Field(default_factory=dict, description="adapter, release, version: of what came of it")
    figures: dict[str, float] = Field(default_factory=dict)


class Attempt(Wire):
    """`job.json`: one attempt of a job on this node."""

    job: JobAssignment
    pid: int | None = None
    started: int | None = Field(None, description="start time of the process, kernel ticks")
    gpus: tuple[str, ...] = Field((), description="UUIDs of the GPUs that are reserved for it")
    sent: int = Field(0, description="bytes of the event file that the hub has acknowledged")
    seq: int = Field(-1, description="highest seq of them")
    outcome: Outcome | None = None
    ended: bool = Field(False, description="the terminal event was sent")
    cancelled: bool = False
    submitting: bool = Field(False, description="it is, or will be, submitted to a scheduler: it may have it")
    scheduled: str | None = Field(None, description="id of the scheduler's job")


class ExecutorFolder:
    """The folder of one attempt, `jobs/ID-ATTEMPT/`. A `user` that executors run as owns `work` in it, and no more."""

    def __init__(self, path: Path, user: JobUser | None = None) -> None:
        self.path = path
        self.user = user
        self.work = path / "work" if user is not None else path
        """Where the executor writes."""
        self.job = path / "job.json"
        """The attempt: the job, and which process works on it."""
        self.spec = path / "spec.json"
        """The executor's specification, which the agent writes before it starts."""
        self.events = self.work / "events.jsonl"
        """The executor's events, a line each."""
        self.error = self.work / "error.txt"
        """The executor's traceback, if it failed."""
        self.log = path / "log.txt"
        """The standard output and standard error of the executor."""
        self.out = self.work / "out"
        """The executor's result, as it writes it."""
        self.result = path / "out"
        """Its result as the agent keeps it."""

    @property
    def name(self) -> str:
        """The name of the attempt's job at a scheduler."""
        return f"loradeck-{self.path.name}"

    def last_lines(self) -> str:
        """The end of the process's log and of its traceback, to be read elsewhere."""
        return "\n".join(filter(None, (_text(self.log, None), _text(self.error, self.user))))[-LOG_CHARS:]

    def first_error(self) -> str:
        """Last line of the executor's traceback, or ''."""
        return _text(self.error, self.user).rpartition("\n")[2][:300]

    def events_from(self, begin: int) -> Iterator[tuple[ExecutorEvent | None, int]]:
        """Yields the executor's events from a byte of their file on, each with the byte at which it ends.

        None stands for a line that is no event. Blocks. Raises: OSError: the file cannot be read.
        """
        try:
            with open_plain(self.events, self.user) as file:
                file.seek(begin)
                data = file.read()
        except FileNotFoundError:
            return
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            begin += len(line)
            event = None
            try:
                event = ExecutorEvent.model_validate_json(line)
            except ValidationError as error:
                log.error("a line in %s is no event: %s", self.events, error.errors()[0]["msg"])
            yield event, begin

    def take_result(self) -> Path:
        """The executor's result in a folder of the agent's own. Blocks.

        Raises: AgentError: `result_unreadable`: there is something in it that is no plain file of the executor's.
        """
        if self.user is not None and not self.result.exists():
            staging = self.path / ".out"
            try:
                shutil.rmtree(staging, ignore_errors=True)
                take(self.out, staging, self.user)
                staging.rename(self.result)
                fsync_folder(self.path)
            except OSError as error:
                raise AgentError("result_unreadable", "the executor's result cannot be taken", str(error)) from error
            remove(self.out)
        return self.result

    def read(self) -> Attempt | None:
        """Reads the attempt in this folder; None when there is none, or none that can be read."""
        try:
            return Attempt.model_validate_json(self.job.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.error("%s cannot be read and is left alone: %s", self.job, error)
            return None

    def write(self, attempt: Attempt) -> None:
        """Writes the attempt durably. Raises: AgentError: `disk_full` or `disk_error`."""
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            write_durably(self.job, attempt.model_dump_json().encode())
        except OSError as error:
            raise disk_error(error, self.path) from error


def _text(path: Path, user: JobUser | None) -> str:
    """Reads a file as text; '' where it cannot be read."""
    with contextlib.suppress(OSError), open_plain(path, user) as file:
        return file.read().decode("utf-8", "replace").strip()
    return ""


def sweep(jobs: Path) -> None:
    """Removes attempts that ended long ago, but not a base that one has trained: an engine may run on it. Blocks."""
    for path in jobs.iterdir():
        folder = ExecutorFolder(path)
        attempt = folder.read()
        if attempt is None or not attempt.ended or time.time() - folder.job.stat().st_mtime < KEPT_S:
            continue
        spec = attempt.job.spec
        if isinstance(spec, TrainSpec) and spec.weights is Weights.FULL and folder.result.exists():
            continue
        log.info("the files of attempt %d at job %s are removed", attempt.job.attempt, attempt.job.id)
        remove(path)
