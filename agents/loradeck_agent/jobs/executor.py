"""One executor: its events on the way to the hub, and the processes that write them.

The folder of its attempt is the whole truth about it; `backend` says where the processes run.
"""

import json
import logging
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from loradeck.schemas.executor import (
    EXIT_BAD_SPEC,
    EXIT_DIVERGED,
    EXIT_OUT_OF_MEMORY,
    EXIT_PREEMPTED,
    ExecutorEvent,
    ExecutorSpec,
)
from loradeck.schemas.jobs import TrainSpec
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.backend import Command, Workload
from loradeck_agent.store.fetch import disk_error

log = logging.getLogger(__name__)

EXIT_CODES = {
    EXIT_BAD_SPEC: "bad_data",
    EXIT_DIVERGED: "diverged",
    EXIT_OUT_OF_MEMORY: "out_of_memory",
    EXIT_PREEMPTED: "preempted",
}


@dataclass
class _Sent:
    """An event that was read, where it ends in the file, and whether the hub has acknowledged it."""

    seq: int
    end: int
    noted: bool = False


class Executor:
    """One attempt: its processes, and their events that the hub does not have yet."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.top = workload.attempt.seq
        """Highest seq that was read."""
        self._read = workload.attempt.sent
        self._open: deque[_Sent] = deque()

    @property
    def folder(self) -> ExecutorFolder:
        """The folder of the attempt."""
        return self.workload.folder

    @property
    def attempt(self) -> Attempt:
        """The attempt as `job.json` has it."""
        return self.workload.attempt

    @property
    def started(self) -> bool:
        """Whether any process of this attempt was ever started, or submitted to a scheduler."""
        return self.workload.started

    async def start(self, kind: str, spec: ExecutorSpec, devices: str | None = None) -> None:
        """Lays the folder out and submits the processes. `devices`: the GPUs that CUDA may see in them; None: any.

        Raises: AgentError: the disk refused the folder, or they could not be started.
        """
        folder, user = self.folder, self.folder.user
        processes = spec.processes or (spec.spec.processes if isinstance(spec.spec, TrainSpec) else 1)
        try:
            write_durably(folder.spec, spec.model_dump_json(indent=1).encode())
            if user is not None:
                user.may_pass(folder.path)
                os.chown(folder.spec, -1, user.gid)
                folder.spec.chmod(0o440)
                folder.work.mkdir(mode=0o700, exist_ok=True)
                user.give(folder.work)
        except OSError as error:
            raise disk_error(error, folder.path) from error
        await self.workload.submit(Command(kind, folder.spec, processes, spec.threads, devices))

    def new_events(self) -> list[ExecutorEvent]:
        """Events that were written since the last call, or that are to be sent again."""
        events = []
        try:
            for event, end in self.folder.events_from(self._read):
                self._read = end
                if event is not None:
                    events.append(event)
                    self._open.append(_Sent(event.seq, end))
                    self.top = max(self.top, event.seq)
        except OSError as error:
            log.error("%s cannot be read: %s", self.folder.events, error)
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
            self.workload.note(sent=last.end, seq=max(last.seq, self.attempt.seq))

    def again(self) -> None:
        """Reads the events that the hub has not acknowledged once more."""
        self._read = self.attempt.sent
        self._open.clear()


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
