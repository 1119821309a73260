"""The records of all jobs: in memory the unfinished and the newest finished ones, in the store all there ever were.

Beside them, in memory, the last lines that their executors printed, for people who follow a job or ask why it failed.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from loradeck.artifacts import Blobs
from loradeck.hub.log.background import Background
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.store_thread import StoreThread, calling
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.schemas.executor import ExecutorEvent
from loradeck.schemas.jobs import LISTED, OVER, CheckpointRef, Job, JobLogLine, JobQuery, JobState
from loradeck.schemas.link import JobLog
from loradeck.store.interface import StoreError
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.jobs.job_records")

KEPT_EVENTS = 1000
"""Events of a job that are kept in memory."""

KEPT_JOBS = 500
"""Finished jobs that are kept in memory."""

CHECKPOINT_KEPT_MS = 14 * DAY_MS
"""How long the checkpoint of a job that failed or was cancelled is kept for somebody who resumes it."""

PIECE = 200
"""Jobs that are read at a time when they are searched."""

ALL = 1_000_000
"""A limit on jobs that none reaches."""


@dataclass(eq=False)
class JobRecords:
    """Keeps jobs and their events, writes them, and shows every change."""

    _store: StoreThread
    _blobs: Blobs
    _catalogue: Catalogue
    _changes: Changes
    _background: Background
    _clock: Clock

    def __post_init__(self) -> None:
        saved = self._store.now(lambda s: s.jobs())
        self._jobs: dict[str, Job] = {job.id: job for job in sorted(saved, key=lambda job: job.created_ms)}
        self._events: dict[str, deque[ExecutorEvent]] = {}
        self.follower: Callable[[Job], None] = lambda job: None
        """Called with a job that has changed, once it is shown."""

    # ---- reading -------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def get(self, job_id: str) -> Job | None:
        """A job that is in memory."""
        return self._jobs.get(job_id)

    async def find_one(self, job_id: str) -> Job | None:
        """A job by its id; None: there never was one."""
        return self._jobs.get(job_id) or await self._store(lambda s: s.job(job_id))

    async def known(self, job_id: str, sees: Callable[[str], bool] = lambda tenant: True) -> Job:
        """A job by its id, at one of the tenants that one sees. Raises: Refused `unknown_job`."""
        job = await self.find_one(job_id)
        if job is None or not sees(job.tenant):
            raise Refused("unknown_job", "there is no such job", detail=job_id, fix="loradeck job ls")
        return job

    def newest(self) -> list[Job]:
        """The unfinished jobs and the newest finished ones, newest first."""
        jobs = sorted(self._jobs.values(), key=lambda job: job.created_ms, reverse=True)
        room = LISTED - sum(job.state not in OVER for job in jobs)
        kept = {job.id for job in [job for job in jobs if job.state in OVER][: max(0, room)]}
        return [job for job in jobs if job.state not in OVER or job.id in kept]

    async def every(self) -> list[Job]:
        """Lists all jobs there ever were, by id."""
        jobs = {job.id: job for job in await self._store(lambda s: s.jobs(limit=ALL))}
        jobs.update({job.id: job for job in self.newest()})
        return [job for _, job in sorted(jobs.items())]

    async def find(self, query: JobQuery, sees: Callable[[str], bool]) -> list[Job]:
        """The jobs that a query asks for, of all there ever were at the tenants that one sees.

        They are read in pieces, in the background of the store: a search keeps no move waiting.

        Raises: Refused `unknown_job`: there is none to begin before.
        """
        if query.before is not None:
            await self.known(query.before, sees)
        found: list[Job] = []
        before = query.before
        while len(found) < query.limit:
            piece = await self._store(calling(Store.jobs_before, before, limit=PIECE), background=True)
            jobs = (self._jobs.get(one.id, one) for one in piece)
            found += [job for job in jobs if sees(job.tenant) and query.takes(job)]
            if len(piece) < PIECE:
                break
            before = piece[-1].id
        return found[: query.limit]

    def events(self, job_id: str, *, attempt: int = 0, seq: int = -1) -> list[ExecutorEvent]:
        """The newest events of a job since the hub started, after the one with this attempt and seq."""
        return [e for e in self._events.get(job_id, ()) if (e.attempt, e.seq) > (attempt, seq)]

    # ---- writing -------------------------------------------------------------------------------------------

    async def add(self, job: Job) -> None:
        """Keeps a new job once it is durable."""
        await self._store(lambda s: s.put_job(job))
        self.put(job, durable=False)

    def put(self, job: Job, *, durable: bool = True) -> None:
        """Keeps a job's new state and shows it."""
        before = self._jobs.get(job.id)
        self._jobs[job.id] = job
        if before is not None and before.checkpoint != job.checkpoint:
            self._background.spawn(self._remove_checkpoint(before.checkpoint))
        self._changes.job(job.id)
        self.follower(job)
        if durable:
            self._background.spawn(self._write(job))
        if job.state in OVER:
            self._trim()

    def end(self, job: Job, state: JobState, **update: Any) -> Job:
        """Ends a job now. Returns it as it is kept."""
        ended = job.model_copy(update={"state": state, "ended_ms": self._clock.now_ms(), **update})
        self.put(ended)
        log.info("job over job=%s kind=%s state=%s code=%s", job.id, job.kind, state.value, ended.code)
        return ended

    def add_event(self, job_id: str, event: ExecutorEvent) -> bool:
        """Keeps an event of a job in its place. Returns False for one that is kept already."""
        kept = self._events.setdefault(job_id, deque(maxlen=KEPT_EVENTS))
        if event in kept:
            return False
        kept.append(event)
        if len(kept) > 1 and (event.attempt, event.seq) < (kept[-2].attempt, kept[-2].seq):
            self._events[job_id] = deque(sorted(kept, key=lambda e: (e.attempt, e.seq)), maxlen=KEPT_EVENTS)
        return True

    def forget_checkpoints(self) -> None:
        """Removes checkpoints of jobs that ended long ago and nobody resumed: the log needs the disk too."""
        before = self._clock.now_ms() - CHECKPOINT_KEPT_MS
        for job in self._jobs.values():
            if job.checkpoint is not None and job.state in OVER and (job.ended_ms or 0) < before:
                self._forget_checkpoint(job)

    def _forget_checkpoint(self, job: Job) -> None:
        """Removes a job's checkpoint; resumed after this, the job begins anew."""
        old, forgotten = job.checkpoint, job.model_copy(update={"checkpoint": None})
        self._jobs[job.id] = forgotten
        self._background.spawn(self._write(forgotten))
        self._background.spawn(self._remove_checkpoint(old))

    async def _remove_checkpoint(self, old: CheckpointRef | None) -> None:
        """Removes the files of a checkpoint that no job goes on from any more.

        A file that a registered document or a job's checkpoint names is never touched: a node names the files of a
        checkpoint, and must not be able to have somebody else's removed by naming them.
        """
        if old is None:
            return
        kept = (job.checkpoint.files for job in self._jobs.values() if job.checkpoint is not None)
        staying = {*self._catalogue.rows_in, *self._catalogue.adapters_with, *(f.sha256 for one in kept for f in one)}
        if gone := {file.sha256 for file in old.files} - staying:
            await asyncio.to_thread(self._blobs.delete, gone)

    async def _write(self, job: Job) -> None:
        try:
            await self._store(lambda s: s.put_job(job), background=True)
        except StoreError as error:
            log.error("job not written job=%s state=%s code=%s", job.id, job.state.value, error.code)

    def _trim(self) -> None:
        over = [job for job in self._jobs.values() if job.state in OVER]
        for job in over[: max(0, len(over) - KEPT_JOBS)]:
            if job.checkpoint is not None:
                self._forget_checkpoint(job)
            del self._jobs[job.id]
            self._events.pop(job.id, None)


KEPT_LINES = 1000
LOGGED_JOBS = 64
"""Jobs whose lines are kept, those that printed last."""


class JobLogs:
    """The last lines of jobs' logs: KEPT_LINES of each of LOGGED_JOBS jobs.

    A node sends the newest lines it has when it cannot send all; the numbers of the lines then show what is missing.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[JobLogLine]] = OrderedDict()

    def take(self, message: JobLog) -> None:
        """Lines of one attempt. What is here already, or older, is left out."""
        kept = self._lines.setdefault(message.job, deque(maxlen=KEPT_LINES))
        self._lines.move_to_end(message.job)
        last = (kept[-1].attempt, kept[-1].number) if kept else (0, 0)
        for i, text in enumerate(message.lines):
            number = message.first + i
            if (message.attempt, number) > last:
                kept.append(JobLogLine(attempt=message.attempt, number=number, text=text))
        while len(self._lines) > LOGGED_JOBS:
            self._lines.popitem(last=False)

    def after(self, job: str, attempt: int, number: int) -> list[JobLogLine]:
        """Lines after one that is known; (0, 0): all that are kept."""
        return [line for line in self._lines.get(job, ()) if (line.attempt, line.number) > (attempt, number)]


MOST_UPLOADED = 1 << 40
"""Bytes that a node may send under the leases that it holds: some checkpoints of the largest weights."""


class Uploads:
    """The bytes that each node has sent since it last held none of its present leases."""

    def __init__(self) -> None:
        self._sent: dict[str, tuple[frozenset[str], int]] = {}

    def take(self, node: str, leases: frozenset[str], size: int) -> None:
        """Counts bytes that a node is sending, and checks that they are for a job whose lease it holds.

        Raises: Refused: `forbidden`: it holds none; `too_large`: these are more than a job could mean.
        """
        if not leases:
            self._sent.pop(node, None)
            raise Refused("forbidden", f"{node} holds no job's lease: a node sends only what a job makes")
        before, sent = self._sent.get(node, (leases, 0))
        sent = (0 if leases.isdisjoint(before) else sent) + size
        if sent > MOST_UPLOADED:
            raise Refused(
                "too_large", f"{node} has sent {MOST_UPLOADED >> 30} GiB for its jobs already", fix="cancel them"
            )
        self._sent[node] = (leases, sent)
