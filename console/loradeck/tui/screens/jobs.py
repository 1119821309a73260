"""Jobs: training, evaluation and prepares, with their progress and last message."""

from __future__ import annotations

from typing import Any

from loradeck.tui.actions.key_actions import KeyActions
from loradeck.tui.actions.moves import Moves
from loradeck.tui.actions.window import Handlers, Window
from loradeck.tui.hub.queries import Queries
from loradeck.tui.key_checks.seen_frames import Shown
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.screen import Screen
from loradeck.tui.lines.columns import JOB_COLUMNS, job_cells
from loradeck.tui.lines.jobs import job_lines
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.screens.job import JobScreen
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.text.spans import Line, Span


class JobsScreen(ListScreen):
    """The list of jobs."""

    WHICH = Screen.JOBS
    COLUMNS = JOB_COLUMNS
    EMPTY = "no jobs"

    def __init__(
        self, window: Window, state: ConsoleState, moves: Moves, key_actions: KeyActions, queries: Queries
    ) -> None:
        super().__init__(window, state, moves, key_actions)
        self._queries = queries

    def cells(self, key: Any) -> dict[str, Span] | None:
        """Cells of a job's line; None once it is gone."""
        job = self.state.jobs.get(key)
        return job_cells(self.state, job) if job is not None else None

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        """Details of the selected job."""
        state, job = self.state, self.state.jobs.get(self.state.job_list.selected or "")

        def write(room: int) -> list[Line]:
            return job_lines(state, job, width) if job is not None else nothing_selected()

        return self.above_tell(write, width, height), None

    # ---- keys ------------------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {Action.OPEN: self._open}

    def _open(self) -> None:
        """The selected job's plots and log, for as long as one looks at them."""
        job = self.state.job_list.selected
        if job is not None:
            self.app.push_screen(JobScreen(FollowedJob(job), self.state, self._queries))
