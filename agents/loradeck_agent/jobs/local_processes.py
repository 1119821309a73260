"""The backend of this node: executors are child processes, each in a session of its own, that outlive the agent."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import start_time
from loradeck_agent.jobs import backend
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.backend import Command, Standing, Workload
from loradeck_agent.store.fetch import disk_error

log = logging.getLogger(__name__)

NICE = 10
OOM_SCORE = 500
"""An executor yields the processor to engines and router, and goes first when memory runs out."""


class LocalProcesses(Workload):
    """An attempt's process on this node, found again by its pid and start time. Of several, it is their launcher."""

    def __init__(self, folder: ExecutorFolder, attempt: Attempt) -> None:
        super().__init__(folder, attempt)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def started(self) -> bool:
        """Whether a process was ever started for this attempt."""
        return self.attempt.pid is not None

    async def submit(self, command: Command) -> None:
        """Starts the process and notes which one it is.

        Raises: AgentError: the disk refused its log, or the process could not be started.
        """
        self._start(command)

    def _start(self, command: Command) -> None:
        folder, user = self.folder, self.folder.user
        kind, spec, processes = command.kind, command.spec, command.processes
        argv = backend.executor_argv(kind, spec) if processes == 1 else torchrun_argv(kind, spec, processes)
        env = dict(os.environ) if user is None else {**os.environ, "HOME": str(folder.work)}
        if command.devices is not None:
            env["CUDA_VISIBLE_DEVICES"] = command.devices
        try:
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

    def look(self) -> Standing:
        """Tells whether that process still runs, also where an earlier agent started it.

        Nobody can say the status of one that was not our child.
        """
        if self._child is not None:
            status = self._child.poll()
            return Standing(status is None, status)
        pid = self.attempt.pid
        known = pid is not None and self.attempt.started is not None
        return Standing(known and start_time(pid or 0) == self.attempt.started)

    async def ask(self) -> None:
        """Sends SIGTERM to the process."""
        self._signal(signal.SIGTERM)

    async def kill(self) -> None:
        """Kills the process's whole session."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.attempt.pid
        if pid is None or not self.look().alive:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)


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
