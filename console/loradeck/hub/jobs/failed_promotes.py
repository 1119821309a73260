"""Failed promotes that nobody has answered yet, which flag their pointers."""

from dataclasses import dataclass, field

from loradeck.hub.jobs.job_records import JobRecords
from loradeck.hub.log.log import Published
from loradeck.rules.moves.failed_promotes import ANSWERED_BY, answers, unanswered
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import Job


@dataclass(eq=False)
class FailedPromotes:
    """The newest prepare of each pointer where it failed, until an event answers it, which is kept with the job."""

    _jobs: JobRecords
    _failed: dict[PointerKey, Job] = field(default_factory=dict, init=False)

    def load(self) -> None:
        """Reads the jobs of earlier runs of the hub."""
        self._failed = unanswered(self._jobs)

    def __contains__(self, key: PointerKey) -> bool:
        return key in self._failed

    def begun(self, key: PointerKey) -> None:
        """Notes that a promote of a pointer has begun: it answers an earlier one that failed."""
        self._failed.pop(key, None)

    def ended(self, key: PointerKey, job: Job) -> None:
        """Notes how a pointer's prepare has ended."""
        self._failed.update({key: job} if unanswered([job]) else {})

    def committed(self, published: Published) -> None:
        """Takes pointers out whose failed promote an event answers; a follower of the log."""
        for event in published.events:
            key = (event.tenant, event.route or "")
            if key in self._failed and answers(event):
                job = self._failed.pop(key)
                self._jobs.put(job.model_copy(update={"result": {**(job.result or {}), ANSWERED_BY: event.id}}))
