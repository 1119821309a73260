"""The backend of this node: executors are child processes, each in a session of its own, that outlive the agent.

Whatever an attempt runs has the path of its spec on its command line, also torchrun's ranks, which have sessions of
their own: by it an agent finds those whose pid nobody has noted, and ends those whose launcher is gone. A process holds
the attempt's lock file from before it is forked, so that a second agent starts nothing beside it.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import open_lock, start_time
from loradeck_agent.jobs import backend
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.backend import Command, Standing, Workload
from loradeck_agent.store.fetch import disk_error

log = logging.getLogger(__name__)

FORKED_S = 0.05
"""Between two looks at a process that has just been forked."""

NICE = 10
OOM_SCORE = 500
"""An executor yields the processor to engines and router, and goes first when memory runs out."""


class LocalProcesses(Workload):
    """An attempt's process on this node, found again by its pid and start time. Of several, it is their launcher."""

    def __init__(self, folder: ExecutorFolder, attempt: Attempt) -> None:
        super().__init__(folder, attempt)
        self._child: subprocess.Popen[bytes] | None = None
        self._left: list[int] | None = None
        """Processes that still ran at the last look after the attempt's own had ended; None: there was no look."""
        if attempt.pid is None and folder.spec.exists():
            with contextlib.suppress(AgentError):  # the disk refuses the note: the next agent finds it again
                self._find()

    def _find(self) -> bool:
        """Notes the process that an earlier agent started and had no time to note; False: there is none."""
        first = min(((at, pid) for pid in self._all() if (at := start_time(pid)) is not None), default=None)
        if first is None:
            return False
        started, pid = first  # of torchrun's, the launcher
        log.warning("the attempt in %s runs already: pid %d", self.folder.path, pid)
        self.note(pid=pid, started=started)
        return True

    @property
    def started(self) -> bool:
        """Whether a process was ever started for this attempt."""
        return self.attempt.pid is not None

    async def submit(self, command: Command) -> None:
        """Starts the process and notes which one it is. One that an earlier agent started is taken on.

        Raises: AgentError: the disk refused its log, or the process could not be started.
        """
        try:
            lock = open_lock(self.folder.path / "lock")
        except OSError as error:
            raise disk_error(error, self.folder.path) from error
        try:
            while not self._find():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # it was forked, and has no command line of its own yet
                    await asyncio.sleep(FORKED_S)
                    continue
                self._start(command, lock)
                return
        finally:
            os.close(lock)

    def _start(self, command: Command, lock: int) -> None:
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
                pass_fds=(lock,),
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

        What it has left behind when it ended, as a killed launcher its ranks, is killed, and alive until it is gone.
        Nobody can say the status of a process that was not our child.
        """
        running, status = self._running()
        if not running and self.started and self._left != []:
            left, before = self._all(signal.SIGKILL), self._left
            if left and left != before:
                log.warning("processes that the attempt in %s left behind are killed: %s", self.folder.path, left)
            self._left = left
        return Standing(running or (self.started and self._left != []), status)

    def _running(self) -> tuple[bool, int | None]:
        if self._child is not None:
            status = self._child.poll()
            return status is None, status
        pid, started = self.attempt.pid, self.attempt.started
        return pid is not None and started is not None and start_time(pid) == started, None

    async def ask(self) -> None:
        """Sends SIGTERM to the process."""
        self._signal(os.kill, signal.SIGTERM)

    async def kill(self) -> None:
        """Kills the process's whole session, and all else that the attempt runs."""
        self._signal(os.killpg, signal.SIGKILL)
        self._all(signal.SIGKILL)

    def _signal(self, send: Callable[[int, int], None], number: signal.Signals) -> None:
        pid = self.attempt.pid
        if pid is not None and self._running()[0]:
            with contextlib.suppress(ProcessLookupError):
                send(pid, number)

    def _all(self, number: signal.Signals | None = None) -> list[int]:
        """Finds all processes of the attempt, and sends them a signal."""
        spec, user = os.fsencode(self.folder.spec), self.folder.user
        owner, found = os.geteuid() if user is None else user.uid, []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it has ended
                pid, folder = int(name), Path("/proc", name)
                if folder.stat().st_uid != owner or spec not in (folder / "cmdline").read_bytes().split(b"\0"):
                    continue
                if number is not None:
                    os.kill(pid, number)
                found.append(pid)
        return found


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
