"""One executor: a child process in a session of its own that works in its folder and outlives the agent.

The folder is the whole truth about an attempt: `job.json` holds the job and which process works on it,
`events.jsonl` its events. So an agent that is started again finds its executors by pid and start time.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from loradeck.artifacts.staging import remove
from loradeck.schemas.ids import Wire
from loradeck.schemas.jobs import (
    EXIT_BAD_SPEC,
    EXIT_DIVERGED,
    EXIT_OUT_OF_MEMORY,
    EXIT_PREEMPTED,
    ExecutorEvent,
    ExecutorSpec,
    JobAssignment,
    TrainSpec,
)
from loradeck.schemas.training import Weights
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.job_user import JobUser, open_plain, take
from loradeck_agent.host.state_folder import fsync_folder, start_time, write_durably
from loradeck_agent.store.checkpoints import KEPT_S
from loradeck_agent.store.fetch import disk_error

log = logging.getLogger(__name__)

NICE = 10
OOM_SCORE = 500
"""An executor yields the processor to engines and router, and goes first when memory runs out."""

GRACE_S = 60.0
"""Between SIGTERM and SIGKILL: an executor stops at its next step."""

LOG_CHARS = 2000
"""Longest end of a failed attempt's log and traceback that is sent with the job."""

EXIT_CODES = {
    EXIT_BAD_SPEC: "bad_data",
    EXIT_DIVERGED: "diverged",
    EXIT_OUT_OF_MEMORY: "out_of_memory",
    EXIT_PREEMPTED: "preempted",
}


class Attempt(Wire):
    """`job.json`: one attempt of a job on this node."""

    job: JobAssignment
    pid: int | None = None
    started: int | None = Field(None, description="start time of the process, kernel ticks")
    sent: int = Field(0, description="bytes of the event file that the hub has acknowledged")
    seq: int = Field(-1, description="highest seq of them")
    ended: bool = Field(False, description="the terminal event was sent")
    cancelled: bool = False


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
        """What the executor was given to do."""
        self.events = self.work / "events.jsonl"
        """The executor's events, a line each."""
        self.error = self.work / "error.txt"
        """The executor's traceback, if it failed."""
        self.log = path / "log.txt"
        """What the executor printed."""
        self.out = self.work / "out"
        """The executor's result, as it writes it."""
        self.result = path / "out"
        """Its result as the agent keeps it."""

    def last_lines(self) -> str:
        """The end of the process's log and of its traceback, to be read elsewhere."""
        parts = []
        for path, user in ((self.log, None), (self.error, self.user)):
            with contextlib.suppress(OSError), open_plain(path, user) as file:
                parts.append(file.read().decode("utf-8", "replace").strip())
        return "\n".join(part for part in parts if part)[-LOG_CHARS:]

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


def sweep(jobs: Path) -> None:
    """Removes attempts that ended long ago: their results are with the hub. Blocks.

    A base that an attempt has trained stays: an engine may run on it.
    """
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


@dataclass
class _Sent:
    """An event that was read, where it ends in the file, and whether the hub has acknowledged it."""

    seq: int
    end: int
    noted: bool = False


class Executor:
    """The process of one attempt."""

    def __init__(self, folder: ExecutorFolder, attempt: Attempt) -> None:
        self.folder = folder
        self.attempt = attempt
        self.top = attempt.seq
        """Highest seq that was read."""
        self._read = attempt.sent
        self._open: deque[_Sent] = deque()
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, kind: str, spec: ExecutorSpec, devices: str | None = None) -> None:
        """Starts the process and notes which one it is. `devices`: the GPUs that CUDA may see in it; None: any.

        Raises: AgentError: the disk refused the folder, or the process could not be started.
        """
        folder = self.folder
        processes = spec.processes or (spec.spec.processes if isinstance(spec.spec, TrainSpec) else 1)
        argv = executor_argv(kind, folder.spec) if processes == 1 else torchrun_argv(kind, folder.spec, processes)
        user = folder.user
        env = dict(os.environ) if user is None else {**os.environ, "HOME": str(folder.work)}
        if devices is not None:
            env["CUDA_VISIBLE_DEVICES"] = devices
        try:
            write_durably(folder.spec, spec.model_dump_json(indent=1).encode())
            if user is not None:
                user.may_pass(folder.path)
                os.chown(folder.spec, -1, user.gid)
                folder.spec.chmod(0o440)
                folder.work.mkdir(mode=0o700, exist_ok=True)
                user.give(folder.work)
            out = os.open(folder.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(error, folder.path) from error
        try:
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=folder.work,
                umask=0o077,
                user=None if user is None else user.uid,
                group=None if user is None else user.gid,
                extra_groups=None if user is None else user.groups,
                env=env,
            )
        except OSError as error:
            raise AgentError("executor_start", "the executor cannot be started", str(error)) from error
        finally:
            os.close(out)
        pid = self._child.pid
        _lower(pid)
        self.note(pid=pid, started=start_time(pid))

    def note(self, **changes: object) -> None:
        """Changes `job.json`."""
        self.attempt = self.attempt.model_copy(update=changes)
        self.folder.write(self.attempt)

    @property
    def started(self) -> bool:
        """Whether a process was ever started for this attempt."""
        return self.attempt.pid is not None

    def alive(self) -> bool:
        """Tells whether that process still runs, also where an earlier agent started it."""
        if self._child is not None:
            return self._child.poll() is None
        pid = self.attempt.pid
        return pid is not None and self.attempt.started is not None and start_time(pid) == self.attempt.started

    @property
    def status(self) -> int | None:
        """Exit status of a process that ended; None where it was not our child, so that nobody can say."""
        return self._child.returncode if self._child is not None else None

    async def end(self) -> None:
        """SIGTERM, a grace, then SIGKILL for its whole session."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            if not self.alive():
                return
            await asyncio.sleep(0.1)
        log.warning("the executor in %s does not stop and is killed", self.folder.path)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.attempt.pid
        if pid is None or not self.alive():
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)

    def new_events(self) -> list[ExecutorEvent]:
        """Events that were written since the last call, or that are to be sent again."""
        try:
            with open_plain(self.folder.events, self.folder.user) as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.error("%s cannot be read: %s", self.folder.events, error)
            return []
        events = []
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            self._read += len(line)
            try:
                event = ExecutorEvent.model_validate_json(line)
            except ValidationError as error:
                log.error("a line in %s is no event: %s", self.folder.events, error.errors()[0]["msg"])
                continue
            events.append(event)
            self._open.append(_Sent(event.seq, self._read))
            self.top = max(self.top, event.seq)
        return events

    @property
    def unnoted(self) -> bool:
        """Whether the hub has not yet acknowledged an event that was read."""
        return any(not sent.noted for sent in self._open)

    def noted(self, seq: int) -> None:
        """The hub has acknowledged an event."""
        for sent in self._open:
            sent.noted = sent.noted or sent.seq == seq

    def keep_noted(self) -> None:
        """Makes durable up to where the hub has acknowledged every event."""
        last: _Sent | None = None
        while self._open and self._open[0].noted:
            last = self._open.popleft()
        if last is not None:
            self.note(sent=last.end, seq=max(last.seq, self.attempt.seq))

    def again(self) -> None:
        """Reads the events that the hub has not acknowledged once more."""
        self._read = self.attempt.sent
        self._open.clear()

    def first_error(self) -> str:
        """Last line of the traceback in `error.txt`, or ''."""
        try:
            with open_plain(self.folder.error, self.folder.user) as file:
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1][:300] if lines else ""


def executor_argv(kind: str, spec: Path) -> tuple[str, ...]:
    """Writes the command that starts an executor of this kind."""
    return (sys.executable, "-m", "loradeck_agent.executors", kind, "--spec", str(spec))


def torchrun_argv(kind: str, spec: Path, processes: int) -> tuple[str, ...]:
    """Writes the command of an executor of several processes: torch's launcher, which they meet through (c10d)."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--module")
    return (sys.executable, *launcher, "loradeck_agent.executors", kind, "--spec", str(spec))


def _lower(pid: int) -> None:
    """Lowers a process's priority below that of engines and router. A host that forbids it is no failure."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))
    except OSError as error:
        log.warning("the executor's priority stays as it is: %s", error)


def read_json(path: Path) -> object:
    """Reads a JSON result file of an executor. Raises: AgentError: `result_missing` or `result_unreadable`."""
    try:
        document: object = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise AgentError("result_missing", "the executor left no result", path.name) from error
    except (OSError, ValueError) as error:
        raise AgentError(
            "result_unreadable", "the executor's result cannot be read", f"{path.name}: {error}"
        ) from error
    return document
