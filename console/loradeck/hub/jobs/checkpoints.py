"""Checkpoints of train jobs at the hub: the newest one of each job, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from loradeck.schemas.jobs import CheckpointRef, Job

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub
    from loradeck.hub.log.catalogue import Catalogue


def let_go(hub: Hub, jobs: Iterable[Job], old: CheckpointRef | None) -> None:
    """Remove the files of a checkpoint that no job goes on from any more.

    A file that a registered document or a job's checkpoint names is never touched: a node says which files are a
    checkpoint's, and must not be able to have somebody else's removed by naming them.
    """
    if old is None:
        return
    staying = set(_registered(hub.catalogue))
    staying |= {file.sha256 for job in jobs if job.checkpoint is not None for file in job.checkpoint.files}
    for sha256 in {file.sha256 for file in old.files} - staying:
        if hub.blobs.has(sha256):
            hub.blobs.path(sha256).unlink(missing_ok=True)


def _registered(catalogue: Catalogue) -> Iterator[str]:
    for version in catalogue.adapters.values():
        yield from (file.sha256 for file in version.manifest.files)
    for dataset in catalogue.datasets.values():
        yield from (file.sha256 for file in dataset.files)
    for suite in catalogue.suites.values():
        yield from (file.sha256 for file in suite.files)
