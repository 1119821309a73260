"""Jobs: training, evaluation and prepares, with their progress and what they said last."""

from __future__ import annotations

from typing import Any

from loradeck.tui.gate.decide import Action
from loradeck.tui.gate.seen_frames import Shown
from loradeck.tui.hub.job_follower import Following
from loradeck.tui.lines.columns import JOB_COLUMNS, job_cells
from loradeck.tui.lines.details import job_lines
from loradeck.tui.lines.preview import tell_lines
from loradeck.tui.model.state import Screen
from loradeck.tui.screens.job import JobScreen
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.text.spans import Line, Span


class JobsScreen(ListScreen):
    WHICH = Screen.JOBS
    COLUMNS = JOB_COLUMNS
    EMPTY = "no jobs"

    def cells(self, key: Any) -> dict[str, Span] | None:
        job = self.deck.state.jobs.get(key)
        return job_cells(self.deck.state, job) if job is not None else None

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        state = self.deck.state
        job = state.jobs.get(state.job_list.selected or "")
        told = tell_lines(state.order_tell, width, 2) if state.order_tell is not None else []
        lines = (job_lines(state, job, width) if job is not None else nothing_selected())[: height - len(told)]
        return [*lines, *[()] * (height - len(told) - len(lines)), *told], None

    # ---- keys ------------------------------------------------------------------------------------------------

    def do_enter(self) -> None:
        """The selected job's plots and log, for as long as one looks at them."""
        job = self.deck.state.job_list.selected
        if job is not None:
            self.app.push_screen(JobScreen(Following(job)))

    def do_cancel(self) -> None:
        self.deck.moving.order(Action.CANCEL)

    def do_resume(self) -> None:
        self.deck.moving.order(Action.RESUME)
