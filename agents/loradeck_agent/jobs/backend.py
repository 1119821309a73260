"""The interface of what runs the processes of attempts: this node itself, or a scheduler that it submits to.

The folder of an attempt is all that passes between an executor and its agent: spec, events, log and result. So a
backend starts processes, says how they stand and stops them, and nothing else: the agent brings results and checkpoints
to the hub.
"""

import asyncio
import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loradeck.schemas.jobs import Scheduled
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder

log = logging.getLogger(__name__)

GRACE_S = 60.0
"""Between the request to stop and the kill: an executor stops at its next step."""

KILLED_S = 10.0
"""How long the end of what was killed is waited for: one that sits in a call of a driver ends later, or never."""


@dataclass(frozen=True)
class Command:
    """The processes to start: how many of an executor of this kind, and the threads of each.

    `devices`: the GPUs of this node that CUDA may see in them; None: any.
    """

    kind: str
    spec: Path
    processes: int = 1
    threads: int = 1
    devices: str | None = None


@dataclass(frozen=True)
class Standing:
    """How the processes of an attempt stand. `status`: exit status of those that ended; None: nobody can say."""

    alive: bool
    status: int | None = None
    scheduled: Scheduled | None = None
    """The scheduler's own id, state and reason; None: no scheduler runs them."""


class Workload(ABC):
    """The processes of one attempt. What they are found by stands in `job.json`, for an agent that starts again."""

    def __init__(self, folder: ExecutorFolder, attempt: Attempt) -> None:
        self.folder = folder
        self.attempt = attempt

    def note(self, **changes: object) -> None:
        """Changes `job.json`. Raises: AgentError: `disk_full` or `disk_error`."""
        self.attempt = self.attempt.model_copy(update=changes)
        self.folder.write(self.attempt)

    @property
    @abstractmethod
    def started(self) -> bool:
        """Whether any process of this attempt was ever started, or submitted to a scheduler."""

    @abstractmethod
    async def submit(self, command: Command) -> None:
        """Starts or submits the processes, once, and notes what they are found by.

        What they print is appended to the folder's `log`. While it is not known whether an earlier submission was taken
        this waits: there are never two.

        Raises: AgentError: they cannot be started, or the scheduler refuses them.
        """

    @abstractmethod
    def look(self) -> Standing:
        """Says how they stand. What they wrote before they ended can be read once this says that they have.

        What a scheduler began again, or cannot be asked about now, is alive.
        """

    @abstractmethod
    async def ask(self) -> None:
        """Asks them to stop after the step in hand (SIGTERM). What waits in a queue is taken out of it."""

    @abstractmethod
    async def kill(self) -> None:
        """Ends them at once."""

    def over(self) -> None:
        """Notes that the attempt is over: nothing of it is to start any more."""
        self.note(ended=True)

    async def end(self) -> None:
        """Asks them to stop, gives them a grace, then kills them. Returns once they end, or never do."""
        for stop, patience in ((self.ask, GRACE_S), (self.kill, KILLED_S)):
            await stop()
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if not self.look().alive:
                    return
                await asyncio.sleep(0.1)
            log.warning("the executor in %s does not end in %g s", self.folder.path, patience)


Backend = Callable[[ExecutorFolder, Attempt], Workload]
"""Makes the workload of an attempt, new or found again."""


def executor_argv(kind: str, spec: Path) -> tuple[str, ...]:
    """Writes the command that starts an executor of this kind."""
    return (sys.executable, "-m", "loradeck_agent.executors", kind, "--spec", str(spec))
