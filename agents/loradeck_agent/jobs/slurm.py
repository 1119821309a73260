"""The backend of a submit host: an attempt is one Slurm job, whose files pass over a folder that the cluster shares.

Slurm is asked by its own commands, as this agent's user. Nothing is sent to a shell but one fixed script, and a job
sees no more of the agent's environment than `ENVIRONMENT`. A controller that does not answer means that nothing is
known: the agent waits for it, says so, and submits nothing again.
"""

import asyncio
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from loradeck.schemas.executor import EXIT_OUT_OF_MEMORY, EXIT_PREEMPTED
from loradeck.schemas.jobs import Scheduled
from loradeck_agent.host.config import SlurmConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.jobs import backend
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.backend import Command, Standing, Workload
from loradeck_agent.store.fetch import disk_error

log = logging.getLogger(__name__)

POLL_S = 5.0
"""How often Slurm is asked about a job."""

RETRY_S = 5.0
"""Pause before a controller that did not answer is asked again."""

COMMAND_S = 60.0
"""Longest run of one of Slurm's commands."""

ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SLURM_CONF")
"""What Slurm's commands, and by them the job, see of the agent's environment."""

SCRIPT = """\
#!/bin/sh
# Runs one attempt of a Loradeck job: FOLDER COMMAND... A second job for the same attempt does nothing.
set -eu
umask 077
folder=$1
shift
(set -C; echo "$SLURM_JOB_ID" >"$folder/owner") 2>/dev/null || :
if [ "$(cat "$folder/owner")" != "$SLURM_JOB_ID" ] || [ -e "$folder/over" ]; then exit 0; fi
cd "$folder"
LORADECK_RANKS=srun MASTER_ADDR=$(uname -n) MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export LORADECK_RANKS MASTER_ADDR MASTER_PORT
exec srun --export=ALL --mpi=none --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" "$@"
"""

LOST = ("unable to contact", "timed out", "zero bytes", "connection", "communication", "standby", "try again")
"""What Slurm's commands say where the controller may or may not have taken a request."""

ENDED = {
    "COMPLETED": None,
    "FAILED": None,
    "OUT_OF_MEMORY": EXIT_OUT_OF_MEMORY,
    **dict.fromkeys(
        ("BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT"), EXIT_PREEMPTED
    ),
}
"""State of a job that is over -> the exit status that it stands for; None: the job's own."""

_FIELD = re.compile(r"\b(JobId|JobName|JobState|Reason|ExitCode|Restarts)=(\S+)")


class SlurmJob(Workload):
    """An attempt's job at Slurm, found again by its id, and before that is known by its name.

    `turn`: shared by all of an agent's, which ask a controller of everybody's one command at a time.
    """

    def __init__(self, folder: ExecutorFolder, attempt: Attempt, config: SlurmConfig, turn: asyncio.Lock) -> None:
        super().__init__(folder, attempt)
        self._config, self._turn = config, turn
        self._name = folder.name
        known = _said(attempt.scheduled, "unknown", "Slurm is yet to be asked") if attempt.scheduled else None
        self._standing = Standing(True, scheduled=known)
        self._asking: asyncio.Task[None] | None = None
        self._due = 0.0

    @property
    def started(self) -> bool:
        """Whether Slurm has taken a job for this attempt."""
        return self.attempt.scheduled is not None

    # ---- submitting ----------------------------------------------------------------------------------------

    async def submit(self, command: Command) -> None:
        """Submits the job and notes its id, as soon as Slurm answers. One that an earlier agent submitted is taken on.

        Raises: AgentError: `scheduler_refused` with Slurm's words, `scheduler_missing`; or the disk refused.
        """
        self._program("sbatch")
        script, folder = self.folder.path / "batch.sh", self.folder.path
        asked_before = self.attempt.submitting
        try:
            write_durably(script, SCRIPT.encode())
            self.folder.log.touch(mode=0o600)
        except OSError as error:
            raise disk_error(error, folder) from error
        self.note(submitting=True)
        argv = backend.executor_argv(command.kind, command.spec)
        python = str(self._config.python) if self._config.python is not None else argv[0]
        program = (str(script), str(folder), python, *argv[1:])
        while True:
            found = await self._by_name() if asked_before else ""
            if found == "":
                asked_before = True
                status, out, why = await self._run("sbatch", *self._options(command), *program)
                if status == 0:
                    found = out.strip().partition(";")[0]
                elif not _lost(why):
                    self.note(submitting=False)
                    raise AgentError("scheduler_refused", "Slurm does not take the job", why)
                else:
                    self._unknown(why)
            if found:
                log.info("the attempt in %s is Slurm's job %s", folder, found)
                self.note(scheduled=found)
                self._standing = Standing(True, scheduled=_said(found, "submitted", ""))
                return
            await asyncio.sleep(RETRY_S)

    def _options(self, command: Command) -> list[str]:
        """Writes sbatch's options: the attempt's own, then those of the configuration."""
        config, folder = self._config, self.folder
        per_node = max(n for n in range(1, config.processes_per_node + 1) if command.processes % n == 0)
        own = {
            "job-name": self._name,
            "dependency": "singleton",
            "chdir": str(folder.path),
            "output": str(folder.log),
            "open-mode": "append",
            "export": "ALL",
            "nodes": str(command.processes // per_node),
            "ntasks-per-node": str(per_node),
            "cpus-per-task": str(command.threads),
            "partition": config.partition,
            "account": config.account,
            "gres": f"{config.gres}:{per_node}" if config.gres is not None else None,
            "time": str(config.minutes) if config.minutes is not None else None,
            "signal": f"TERM@{backend.GRACE_S:.0f}",
        }
        set_ = {name: value for name, value in own.items() if value is not None} | config.options
        return ["--parsable", "--requeue", *(f"--{name}={value}" for name, value in set_.items())]

    async def _by_name(self) -> str | None:
        """Id of the job that was submitted for this attempt; '': there is none; None: Slurm does not answer."""
        query = ("--noheader", "--me", "--states=all", f"--name={self._name}", "--format=%A")
        status, out, error = await self._run("squeue", *query)
        if status != 0:
            self._unknown(error)
            return None
        return min(out.split(), key=int, default="") or self._owner()

    def _owner(self) -> str:
        """Id of the job that has begun to work in the folder; '': none has."""
        try:
            owner = (self.folder.path / "owner").read_text(encoding="ascii").strip()
        except OSError:
            return ""
        return owner if owner.isdecimal() else ""

    # ---- following -----------------------------------------------------------------------------------------

    def look(self) -> Standing:
        """Says how Slurm's job stood when it last answered, and asks again where that is some seconds ago."""
        ready = self._asking is None or self._asking.done()
        if self.started and self._standing.alive and ready and time.monotonic() >= self._due:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        return self._standing

    async def _ask(self) -> None:
        try:
            owner = await asyncio.to_thread(self._owner)
            if owner and owner != self.attempt.scheduled:
                self.note(scheduled=owner)  # of two that were submitted it is this one that works
            id_ = str(self.attempt.scheduled)
            status, out, error = await self._run("scontrol", "--oneliner", "show", "job", id_)
            if status == 0:
                self._standing = standing_of(out, self._name)
            elif "invalid job id" in error.lower():
                self._standing = Standing(False, scheduled=_said(id_, "gone", "Slurm does not know the job any more"))
            else:
                self._unknown(error)
        except (AgentError, OSError) as failed:
            self._unknown(str(failed))
        self._due = time.monotonic() + POLL_S

    def _unknown(self, error: str) -> None:
        """Notes that Slurm did not answer: nothing is known of the job, so it counts as one that runs."""
        if not self._standing.alive:  # that has been said, and stays so
            return
        before, said = self._standing.scheduled, _said(self.attempt.scheduled, "unknown", error)
        if before is None or before.reason != said.reason:
            log.warning("it is not known how the attempt in %s stands: %s", self.folder.path, error)
        self._standing = Standing(True, scheduled=said)

    # ---- ending --------------------------------------------------------------------------------------------

    async def ask(self) -> None:
        """Takes the job out of the queue, or sends SIGTERM to its processes; waits for a controller that is lost."""
        await self._stop("--state=PENDING")
        await self._stop("--signal=TERM")

    async def kill(self) -> None:
        """Has Slurm end the job, within its KillWait; waits for a controller that is lost."""
        await self._stop()

    async def _stop(self, *how: str) -> None:
        if self.started:
            await self._tell(*how, str(self.attempt.scheduled))
        elif self.attempt.submitting:
            self._mark()
            await self._tell(*how, "--name", self._name)

    async def _tell(self, *args: str) -> None:
        """Runs scancel until the controller has answered: a job that is over already is no error."""
        try:
            while _lost(error := (await self._run("scancel", "--quiet", *args))[2]):
                self._unknown(error)
                await asyncio.sleep(RETRY_S)
            if error:
                log.warning("scancel says of the attempt in %s: %s", self.folder.path, error)
        except (AgentError, OSError) as failed:
            log.error("Slurm cannot be told to end the attempt in %s: %s", self.folder.path, failed)
        self._due = 0.0

    def over(self) -> None:
        """Notes that the attempt is over, also for a job that Slurm may have taken, or is told to begin again."""
        self._mark()
        super().over()
        if self.attempt.submitting and not self.started:
            self._asking = asyncio.get_running_loop().create_task(self.ask())

    def _mark(self) -> None:
        """Leaves the file that keeps the script from starting anything."""
        try:
            (self.folder.path / "over").touch(mode=0o600)
        except OSError as error:
            raise disk_error(error, self.folder.path) from error

    # ---- Slurm's commands ----------------------------------------------------------------------------------

    def _program(self, name: str) -> str:
        path = shutil.which(name, path=str(self._config.bin) if self._config.bin is not None else None)
        if path is None:
            fix = "install Slurm's commands on this host, or name their folder as `bin` under [slurm]"
            raise AgentError("scheduler_missing", f"{name} is not to be found", str(self._config.bin or "PATH"), fix)
        return path

    async def _run(self, program: str, *args: str) -> tuple[int, str, str]:
        """Runs a command of Slurm's: (status, output, complaint in a line). Raises: AgentError: `scheduler_missing`."""
        async with self._turn:
            return await self._run_now(self._program(program), *args)

    async def _run_now(self, path: str, *args: str) -> tuple[int, str, str]:
        env = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        if self._config.bin is not None:
            env["PATH"] = f"{self._config.bin}:{env.get('PATH', os.defpath)}"
        pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            path, *args, stdin=none, stdout=pipe, stderr=pipe, env=env, cwd="/", umask=0o077
        )
        try:
            async with asyncio.timeout(COMMAND_S):
                out, error = await process.communicate()
        except TimeoutError:
            return 1, "", f"{Path(path).name} timed out after {COMMAND_S:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = error.decode("utf-8", "replace").split("\n")
        return process.returncode or 0, out.decode("utf-8", "replace"), "; ".join(filter(None, said))[:1000]


def standing_of(text: str, name: str) -> Standing:
    """Reads how a job stands from `scontrol --oneliner show job`.

    One of another `name` has taken the id of a job that is gone.

    The status of a job that ended is that of its processes, below 0 for a signal; what Slurm ended itself is preempted.
    """
    found: dict[str, str] = {}
    for match in _FIELD.finditer(text):
        found.setdefault(*match.groups())
    id_, state = found.get("JobId", ""), found.get("JobState", "")
    if found.get("JobName") != name:
        return Standing(False, scheduled=_said(id_, "gone", "Slurm does not know the job any more"))
    again = found.get("Restarts", "0")
    reason = ", ".join(
        part
        for part in (found.get("Reason", "None").replace("None", ""), f"begun again {again}x" if again != "0" else "")
        if part
    )
    said = _said(id_, state.lower(), reason)
    if state not in ENDED:
        return Standing(True, scheduled=said)
    status = ENDED[state]
    return Standing(False, _status(found) if status is None else status, said)


def _status(found: Mapping[str, str]) -> int | None:
    """Exit status by Slurm's STATUS:SIGNAL. A shell says a signal as 128 more."""
    status, _, signal = found.get("ExitCode", "").partition(":")
    if not (status.isdecimal() and signal.isdecimal()):
        return None
    number = int(signal) or max(0, int(status) - 128)
    return -number if number else int(status)


def _said(id_: str | None, state: str, reason: str) -> Scheduled:
    return Scheduled(system="slurm", id=id_ or "", state=state, reason=reason)


def _lost(error: str) -> bool:
    return any(words in error.lower() for words in LOST)
