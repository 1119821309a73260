"""Every tenant's pointer with the pinned preview, or the rollback panel while a move is under way."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

from loradeck.client.terminal_text import clean
from loradeck.client.traces import export
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.state import TenantRow
from loradeck.tui.gate.decide import Action, Ask, Refuse, Verdict, barrier, decide, shown_of
from loradeck.tui.gate.seen_frames import Shown
from loradeck.tui.lines.columns import TENANT_COLUMNS, tenant_cells
from loradeck.tui.lines.difference import difference_lines
from loradeck.tui.lines.preview import preview_lines, tell_lines
from loradeck.tui.lines.rollback_panel import has_preview, panel_lines, wants_panel
from loradeck.tui.lines.traces import EXPORTED, SHOWN, trace_lines
from loradeck.tui.model.selectable_list import hidden
from loradeck.tui.model.state import Screen
from loradeck.tui.screens.listing import ListScreen, nothing_selected
from loradeck.tui.screens.page import Page
from loradeck.tui.terminal.save_screen import default_name, save
from loradeck.tui.text.spans import Line, Span, plural


class TenantsScreen(ListScreen):
    WHICH = Screen.TENANTS
    COLUMNS = TENANT_COLUMNS
    EMPTY = "no tenants yet: loradeck tenant create NAME"
    PANE = 10

    def cells(self, key: Any) -> dict[str, Span] | None:
        row = self.deck.state.tenants.get(key)
        return tenant_cells(self.deck.state, row) if row is not None else None

    def do_enter(self) -> None:
        row = self.deck.state.row
        if row is not None:
            self.deck.show_events(f" {row.tenant}/{row.route} ")

    def marked(self) -> frozenset[Hashable]:
        return frozenset(self.deck.state.marks)

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        deck, state = self.deck, self.deck.state
        row = state.row
        if row is None:
            return [*nothing_selected(), *tell_lines(state.tell, width, 2)], None
        frame = deck.sight.look()
        if state.marks:  # the list is put together when R is pressed, and not at every frame
            barred = barrier(Action.ROLLBACK, state, deck.read_only)
            rollback: Verdict = barred or Ask(f"R on {plural(len(state.marks), 'marked row')}")
        else:
            rollback = decide(Action.ROLLBACK, state, frame, read_only=deck.read_only)
        undo = decide(Action.UNDO, state, frame, read_only=deck.read_only)
        self._keep_true(rollback, undo)
        if wants_panel(state, row):
            lines = panel_lines(state, row, width, height, rollback=rollback, undo=undo)
            return lines, shown_of(row, panel=not has_preview(state, row))
        return preview_lines(state, row, width, height, rollback=rollback, undo=undo), shown_of(row)

    def _keep_true(self, rollback: Verdict, undo: Verdict) -> None:
        """A notice that R or u is locked or not armed follows what is so, and goes once it is not."""
        notice = self.prompt.notice
        for key, verdict in (("R", rollback), ("u", undo)):
            if notice.startswith((f"{key} not armed", f"{key} locked")):
                now = verdict.why if isinstance(verdict, Refuse) else ""
                if now != notice:
                    self.prompt.say(now, "warn")

    def do_related(self) -> None:
        """Mark the rows whose live releases share something with this one, or unmark them when all are marked."""
        deck, state, row = self.deck, self.deck.state, self.deck.state.row
        company = state.company.get(row.key) if row is not None else None
        if row is None or company is None or company.generation != row.pointer.generation:
            deck.notice("m off: what shares something with this row is not known yet", "warn")
            return
        keys = [(one.tenant, one.route) for one in company.companions if (one.tenant, one.route) in state.tenants]
        if not keys:
            deck.notice("m: no other live release shares its data, recipe, base move or batch", "dim")
            return
        if set(keys) <= set(state.marks):
            state.marks = [key for key in state.marks if key not in keys]
            deck.notice(f"unmarked {plural(len(keys), 'row')}")
            return
        state.marks += [key for key in keys if key not in state.marks]
        away = len(hidden(keys, state.tenant_list.order))
        more = f", {away} of them hidden by the filter" if away else ""
        cut = f" of {company.total:,}; the hub lists no more" if company.total > len(company.companions) else ""
        deck.notice(f"marked {plural(len(keys), 'row')}{cut}{more}; {row.tenant} itself is marked by space")

    def do_diff(self) -> None:
        """The live release beside the one that R goes to."""
        row = self.deck.state.row
        if row is None or row.live is None:
            self.deck.notice("d off: nothing is served here", "warn")
        elif row.preview.target is None:
            self.deck.notice("d off: R goes nowhere from here, so there is nothing to compare with", "warn")
        else:
            self.deck.notice("looking up both releases ...", "dim")
            work = self._show_difference(row, row.live.id, row.preview.target.id)
            self.deck.run_worker(work, group="offer", exclusive=True)

    async def _show_difference(self, row: TenantRow, left: str, right: str) -> None:
        deck = self.deck
        found = await deck.asker.both(left, right)
        if found is None:
            return
        if deck.front is not self or deck.state.tenant_list.selected != row.key or self.prompt.asking is not None:
            deck.notice("d dropped: you have moved on", "dim")
            return
        deck.notice("")
        one, other, names = found
        write = partial(difference_lines, f"{row.tenant}/{row.route}", one, other, names)
        self.app.push_screen(Page("diff", write, leaves="d"))

    def do_traces(self) -> None:
        """The row's newest requests, from the routers."""
        row = self.deck.state.row
        if row is None:
            self.deck.notice("l off: no row is selected", "warn")
            return
        self.deck.notice("asking the routers ...", "dim")
        self.deck.run_worker(self._show_traces(row.key), group="offer", exclusive=True)

    async def _show_traces(self, key: PointerKey) -> None:
        deck = self.deck
        traced = await deck.asker.traces("l", key, None, SHOWN)
        if traced is None:
            return
        if deck.front is not self or deck.state.tenant_list.selected != key or self.prompt.asking is not None:
            deck.notice("l dropped: you have moved on", "dim")
            return
        deck.notice("")
        self.app.push_screen(Page("traces", partial(trace_lines, deck.state, traced), leaves="l"))

    def do_export(self) -> None:
        """The ids of the requests that the left release answered, into a file."""
        state, row = self.deck.state, self.deck.state.row
        event = state.last_move(row) if row is not None else None
        if row is None or event is None or event.from_release is None:
            self.deck.notice("x off: this row has left no release", "warn")
            return
        self.deck.notice(f"asking the routers for what {state.label_of(event.from_release)} answered ...", "dim")
        self.deck.run_worker(self._export(row.key, event.from_release), group="export", exclusive=True)

    async def _export(self, key: PointerKey, release: str) -> None:
        deck, state = self.deck, self.deck.state
        traced = await deck.asker.traces("x", key, release, EXPORTED)
        if traced is None:
            return
        label = state.label_of(release)
        path = default_name(f"ids-{key[0]}-{key[1]}-{label}", traced.at_ms)
        try:
            save(path, export(traced, label))
        except OSError as error:
            deck.notice(f"x: not saved: {clean(str(path))}: {clean(error.strerror or '')}", "bad")
            return
        of = f" of {traced.counted:,}" if traced.counted is not None else ""
        cut = "; TRUNCATED, the file says why" if traced.truncated or not traced.nodes else ""
        deck.notice(
            f"x: {len(traced.rows):,}{of} request ids of {label} to {clean(str(path))}{cut}", "warn" if cut else ""
        )
