"""Checkpoints of train jobs at the hub: the newest one of each job, and no more."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from loradeck.artifacts import Blobs
from loradeck.hub.log.catalogue import Catalogue
from loradeck.schemas.jobs import CheckpointRef, Job


@dataclass(eq=False)
class Checkpoints:
    """Removes the files of checkpoints that no job goes on from any more."""

    _blobs: Blobs
    _catalogue: Catalogue

    async def remove(self, old: CheckpointRef | None, jobs: Iterable[Job]) -> None:
        """Removes a checkpoint's files. `jobs` are all that may still have a checkpoint.

        A file that a registered document or a job's checkpoint names is never touched: a node names the files of a
        checkpoint, and must not be able to have somebody else's removed by naming them.
        """
        if old is None:
            return
        staying = set(self._registered())
        staying |= {file.sha256 for job in jobs if job.checkpoint is not None for file in job.checkpoint.files}
        if gone := {file.sha256 for file in old.files} - staying:
            await asyncio.to_thread(self._blobs.delete, gone)

    def _registered(self) -> Iterator[str]:
        for version in self._catalogue.adapters.values():
            yield from (file.sha256 for file in version.manifest.files)
        for dataset in self._catalogue.datasets.values():
            yield from (file.sha256 for file in dataset.files)
        for suite in self._catalogue.suites.values():
            yield from (file.sha256 for file in suite.files)
