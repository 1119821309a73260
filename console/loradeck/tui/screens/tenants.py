"""Every tenant's pointer with the pinned preview, or the rollback panel while a move is under way."""

from collections.abc import Hashable, Sequence
from functools import partial

from rich.cells import cell_len

from loradeck.client.terminal_text import clean
from loradeck.client.traces import export
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.state import TenantRow
from loradeck.tui.actions.window import Handlers
from loradeck.tui.key_checks.rollback import shown_of
from loradeck.tui.key_checks.seen_frames import Shown
from loradeck.tui.key_checks.verdict import Ask, Refuse, Verdict, barrier
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.lines.columns import Column
from loradeck.tui.lines.events import EXPORTED, SHOWN, trace_lines
from loradeck.tui.lines.lineage import difference_lines
from loradeck.tui.lines.preview import WIDE, cause_lines, preview_lines, tell_lines
from loradeck.tui.lines.rollback_panel import has_preview, panel_lines, wants_panel
from loradeck.tui.lines.tenants import name_of, tenant_cells, tenant_columns
from loradeck.tui.model.lists import hidden
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.terminal.export import default_name, save
from loradeck.tui.text.spans import Line, plural
from loradeck.tui.widgets.page import Page


class TenantsScreen(ListScreen[TenantRow]):
    """The list of every tenant's pointers."""

    WHICH = Screen.TENANTS
    CELLS = tenant_cells
    EMPTY = "no tenants yet: loradeck tenant create NAME"
    PANE = 10

    _measured: Sequence[PointerKey] = ()
    """The rows whose longest name is known."""

    _longest_name = 0

    def columns(self, width: int) -> tuple[Column, ...]:
        """Columns that leave names whole where there is room for the longest of the list."""
        order = self.state.tenant_list.order
        if order is not self._measured:  # each arranging makes a new list; a key must not go through all rows
            self._measured, self._longest_name = order, max((cell_len(name_of(*key)) for key in order), default=0)
        return tenant_columns(self._longest_name, width)

    def marked(self) -> frozenset[Hashable]:
        """The marked rows."""
        return frozenset(self.state.marks)

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        """The rollback panel or details of the selected pointer."""
        state, row = self.state, self.state.row
        if row is None:
            return [*nothing_selected(), *tell_lines(state, state.tell, width, 2)], None
        if state.marks:  # the list is put together when R is pressed, and not at every frame
            barred = barrier(Action.ROLLBACK, state)
            of_marks = f"on {plural(len(state.marks), 'marked row')}"
            rollback: Verdict = barred or Ask(f"{self.key(Action.ROLLBACK)} {of_marks}")
            undo: Verdict = barred or Ask(f"{self.key(Action.UNDO)} {of_marks}")
        else:
            own = state.own_move(row)
            rollback = self.moves.verdict(Action.ROLLBACK)
            many = own is not None and own.together
            undo = Ask(f"{self.key(Action.UNDO)} on all rows of it") if many else self.moves.verdict(Action.UNDO)
        self._keep_true(rollback, undo)
        if wants_panel(state, row):
            lines = panel_lines(state, row, width, height, rollback=rollback, undo=undo)
            return lines, shown_of(row, panel=not has_preview(state, row))
        return preview_lines(state, row, width, height, rollback=rollback, undo=undo), shown_of(row)

    def below_question(self, width: int) -> list[Line]:
        """The CAUSE of the selected row: it is what the answer depends on."""
        return cause_lines(self.state.row, width >= WIDE) if self.state.row is not None else []

    def _keep_true(self, rollback: Verdict, undo: Verdict) -> None:
        """Bring a notice that R or u is locked or not armed up to date, and remove it once it is not."""
        notice = self.prompt.notice
        for action, verdict in ((Action.ROLLBACK, rollback), (Action.UNDO, undo)):
            key = self.key(action)
            if notice.startswith((f"{key} not armed", f"{key} locked")):
                now = verdict.why if isinstance(verdict, Refuse) else ""
                if now != notice:
                    self.prompt.show_notice(now, "warn")

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {
            **super().handlers,
            Action.MARK_RELATED: self._mark_related,
            Action.DIFF: self._diff,
            Action.TRACES: self._traces,
            Action.EXPORT_IDS: self._export_ids,
        }

    def open(self) -> None:
        """The row's events."""
        row = self.state.row
        if row is not None:
            self.window.show_events(f" {row.tenant}/{row.route} ")

    def _mark_related(self) -> None:
        """Mark the rows whose live releases share something with this one, or unmark them when all are marked."""
        state, row, key = self.state, self.state.row, self.key(Action.MARK_RELATED)
        related = state.related.get(row.key) if row is not None else None
        if row is None or related is None or related.generation != row.pointer.generation:
            self.window.notice(f"{key} off: what shares something with this row is not known yet", "warn")
            return
        keys = [(one.tenant, one.route) for one in related.companions if (one.tenant, one.route) in state.tenants]
        if not keys:
            self.window.notice(f"{key}: no other live release shares its data, recipe, base move or batch", "dim")
            return
        if set(keys) <= set(state.marks):
            state.marks = [key for key in state.marks if key not in keys]
            self.window.notice(f"unmarked {plural(len(keys), 'row')}")
            return
        state.marks += [key for key in keys if key not in state.marks]
        away = len(hidden(keys, state.tenant_list.order))
        more = f", {away} of them hidden by the filter" if away else ""
        cut = f" of {related.total:,}; the hub lists no more" if related.total > len(related.companions) else ""
        itself = f"{row.tenant} itself is marked by {self.key(Action.MARK)}"
        self.window.notice(f"marked {plural(len(keys), 'row')}{cut}{more}; {itself}")

    def _diff(self) -> None:
        """The live release beside the one that R goes to."""
        row = self.state.row
        if row is None or row.live is None:
            self.off(Action.DIFF, "nothing is served here")
        elif row.preview.target is None:
            why = f"{self.key(Action.ROLLBACK)} goes nowhere from here, so there is nothing to compare with"
            self.off(Action.DIFF, f"{why}")
        else:
            self.window.notice("looking up both releases ...", "dim")
            work = self._show_difference(row, row.live.id, row.preview.target.id)
            self.window.run_worker(work, group="offer", exclusive=True)

    async def _show_difference(self, row: TenantRow, left: str, right: str) -> None:
        found = await self.queries.answer(
            Action.DIFF, lambda _: self.queries.both(left, right), partial(self._is_wanted, row.key)
        )
        if found is not None:
            write = partial(difference_lines, f"{row.tenant}/{row.route}", *found)
            self.app.push_screen(Page("diff", write, leaves=self.state.keys.of(Action.DIFF)))

    def _traces(self) -> None:
        """The row's newest requests, from the routers."""
        row = self.state.row
        if row is None:
            self.off(Action.TRACES, "no row is selected")
            return
        self.window.notice("asking the routers ...", "dim")
        self.window.run_worker(self._show_traces(row.key), group="offer", exclusive=True)

    async def _show_traces(self, key: PointerKey) -> None:
        traced = await self.queries.answer(
            Action.TRACES, lambda api: api.traces(*key, last=SHOWN), partial(self._is_wanted, key)
        )
        if traced is not None:
            write = partial(trace_lines, self.state, traced)
            self.app.push_screen(Page("traces", write, leaves=self.state.keys.of(Action.TRACES)))

    def _export_ids(self) -> None:
        """The ids of the requests that the left release answered, into a file."""
        state, row = self.state, self.state.row
        event = state.last_move(row) if row is not None else None
        if row is None or event is None or event.left is None:
            self.off(Action.EXPORT_IDS, "this row has left no release")
            return
        self.window.notice(f"asking the routers for what {state.label_of(event.left)} answered ...", "dim")
        self.window.run_worker(self._export(row.key, event.left), group="export", exclusive=True)

    async def _export(self, key: PointerKey, release: str) -> None:
        state = self.state
        traced = await self.queries.answer(
            Action.EXPORT_IDS, lambda api: api.traces(*key, release=release, last=EXPORTED)
        )
        if traced is None:
            return
        label = state.label_of(release)
        path = default_name(f"ids-{key[0]}-{key[1]}-{label}", traced.at_ms)
        try:
            save(path, export(traced, label))
        except OSError as error:
            self.window.notice(
                f"{self.key(Action.EXPORT_IDS)}: not saved: {clean(str(path))}: {clean(error.strerror or '')}", "bad"
            )
            return
        of = f" of {traced.counted:,}" if traced.counted is not None else ""
        cut = "; TRUNCATED, the file says why" if traced.truncated or not traced.nodes else ""
        wrote = f"{len(traced.rows):,}{of} request ids of {label} to {clean(str(path))}"
        self.window.notice(f"{self.key(Action.EXPORT_IDS)}: {wrote}{cut}", "warn" if cut else "")

    def _is_wanted(self, asked: PointerKey) -> bool:
        """Tells whether an answer about a row may still be put on the screen: the person has not moved on."""
        selected = self.state.tenant_list.selected
        return self.window.front is self and selected == asked and self.prompt.asking is None
