"""Checkpoints of train jobs on this node, and their way to another: each good one goes to the hub as blobs."""

import asyncio
import logging
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from loradeck.artifacts import BadArtifact, scan
from loradeck.schemas.executor import ExecutorEvent
from loradeck.schemas.jobs import CheckpointRef
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.job_user import JobUser, open_plain, take
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.store.fetch import as_agent_error, fetch
from loradeck_agent.uplink.hub_api import HubApi

log = logging.getLogger(__name__)

LAST_GOOD = "LAST_GOOD"
"""File in a job's folder that names its newest whole checkpoint."""

KEPT_S = 14 * 86400.0
"""How long ended attempts are kept on a node, and the checkpoints of a job that did not finish."""

_NAME = re.compile(r"step-(\d{8,})")


def checkpoint_name(step: int) -> str:
    """Name of the folder of a step's checkpoint; names sort as steps do."""
    return f"step-{step:08d}"


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of each train job, in `checkpoints/JOB/`, for its next attempt."""

    root: Path
    hub: HubApi
    user: JobUser | None = None
    """Whom executors run as; None: as the agent's own."""

    def folder(self, job: str) -> Path:
        """Folder of a job's checkpoints."""
        return self.root / job

    def begin(self, job: str) -> None:
        """Makes a job's folder, which is its executor's user's: an executor that is kept apart can make none."""
        self.folder(job).mkdir(mode=0o700, exist_ok=True)
        if self.user is not None:
            self.user.give(self.folder(job))

    async def have(self, job: str, ref: CheckpointRef) -> None:
        """Makes sure that a job goes on from this checkpoint, or from a later one that is here already.

        Raises: AgentError: `digest_mismatch`, `disk_full`, or why the hub did not answer.
        """
        here = self.folder(job)
        if self._newest(here) >= ref.step:
            return
        target, staged = here / checkpoint_name(ref.step), self.root / f".fetched-{job}"
        with as_agent_error(target):
            here.mkdir(mode=0o700, parents=True, exist_ok=True)
            await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
            await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)
        await fetch(self.hub, ref.files, staged)
        with as_agent_error(target):
            staged.chmod(0o700)  # it is one of several, and older ones are removed
            staged.rename(target)
            await asyncio.to_thread(write_durably, here / LAST_GOOD, target.name.encode())

    async def handed_over(self, job: str, event: ExecutorEvent) -> ExecutorEvent:
        """A CHECKPOINT event with the files that the hub now holds; without them where they could not be sent.

        A run does not wait for a hub: what is not sent now is superseded by the next one.
        """
        name = str(event.data.get("folder"))
        if not _NAME.fullmatch(name):
            return event
        folder = self.folder(job) / name
        try:
            if self.user is not None:
                taken = self.root / f".sent-{job}"
                await asyncio.to_thread(shutil.rmtree, taken, ignore_errors=True)
                await asyncio.to_thread(take, folder, taken, self.user)
                folder = taken
            files = await asyncio.to_thread(scan, folder)
            await self.hub.upload(folder, files)
        except (OSError, BadArtifact, AgentError) as error:
            log.warning("checkpoint %s of job %s stays on this node: %s", name, job, error)
            return event
        finally:
            await asyncio.to_thread(shutil.rmtree, self.root / f".sent-{job}", ignore_errors=True)
        return event.model_copy(
            update={"data": {**event.data, "files": [file.model_dump(mode="json") for file in files]}}
        )

    def drop(self, job: str) -> None:
        """Removes the checkpoints of a job that is over."""
        shutil.rmtree(self.folder(job), ignore_errors=True)

    def sweep(self) -> None:
        """Removes old checkpoints: a job that failed or was cancelled may be resumed, but not for ever."""
        for folder in self.root.iterdir():
            if time.time() - folder.stat().st_mtime > KEPT_S:
                log.info("the checkpoints of job %s are removed, nobody resumed it", folder.name)
                self.drop(folder.name)

    def _newest(self, folder: Path) -> int:
        try:
            with open_plain(folder / LAST_GOOD, None) as file:
                found = _NAME.fullmatch(file.read(100).decode("ascii", "replace").strip())
        except OSError:
            return 0
        return int(found[1]) if found else 0
