"""Jobs: training, evaluation and prepares, with their progress and last message."""

from __future__ import annotations

from loradeck.schemas.jobs import Job
from loradeck.tui.actions.window import Handlers
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.screen import Screen
from loradeck.tui.lines.columns import JOB_COLUMNS, job_cells
from loradeck.tui.lines.jobs import job_lines
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.screens.job import JobScreen
from loradeck.tui.screens.listing import ListScreen
from loradeck.tui.text.spans import Line, Span


class JobsScreen(ListScreen[Job]):
    """The list of jobs."""

    WHICH = Screen.JOBS
    COLUMNS = JOB_COLUMNS
    EMPTY = "no jobs"

    def cells_of(self, row: Job) -> dict[str, Span]:
        """Cells of a line."""
        return job_cells(self.state, row)

    def details(self, row: Job, width: int, height: int) -> list[Line]:
        """Details of a row."""
        return job_lines(self.state, row, width)

    # ---- keys ------------------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {Action.OPEN: self._open}

    def _open(self) -> None:
        """The selected job's plots and log, for as long as one looks at them."""
        job = self.state.job_list.selected
        if job is not None:
            self.app.push_screen(JobScreen(FollowedJob(job), self.state, self.queries))
