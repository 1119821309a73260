"""The parts that all lists share: header, summary, column names, grid, pane, prompt, footer."""

from collections.abc import Callable, Hashable
from typing import Any, ClassVar, Generic, TypeVar

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from loradeck.tui.actions.key_actions import KeyActions
from loradeck.tui.actions.moves import Moves
from loradeck.tui.actions.window import Handlers, Window
from loradeck.tui.hub.queries import Queries
from loradeck.tui.key_checks.seen_frames import Shown
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.action import Screen as Which
from loradeck.tui.lines import header_footer
from loradeck.tui.lines.columns import Column, heading, laid_out
from loradeck.tui.lines.preview import tell_lines
from loradeck.tui.model.feed_state import FETCHED, Link
from loradeck.tui.model.state import ORDERED, ConsoleState
from loradeck.tui.text.spans import Line, Span, fit_line, line, plural
from loradeck.tui.widgets.grid import Grid
from loradeck.tui.widgets.lines import Lines
from loradeck.tui.widgets.pane import Pane
from loradeck.tui.widgets.prompt import Asking, Prompt

TALL = 40
"""From this many lines on the pane is higher."""

CHROME = 5
"""Lines that are neither rows nor pane: header, summary, column names, prompt, footer."""

LEAST_ROWS = 3
PANE = 9
PANE_TALL = 14


R = TypeVar("R")


class ListScreen(Screen[None], Generic[R], inherit_bindings=False):
    """A list with a pane for the selected row."""

    WHICH: ClassVar[Which]
    COLUMNS: ClassVar[tuple[Column, ...]]
    CELLS: ClassVar[Callable[[ConsoleState, Any], dict[str, Span]]]
    """Makes the cells of a row."""

    DETAILS: ClassVar[Callable[[ConsoleState, Any, int], list[Line]]]
    """Makes the pane of a row for a terminal of so many columns, if that is all that it depends on."""

    EMPTY: ClassVar[str]
    PANE: ClassVar[int] = PANE
    """Lines of its pane on a terminal that is not tall."""

    DEFAULT_CSS = """
    ListScreen { layout: vertical; background: ansi_default; color: ansi_default; overflow: hidden; }
    """

    def __init__(
        self, window: Window, state: ConsoleState, moves: Moves, key_actions: KeyActions, queries: Queries
    ) -> None:
        super().__init__(name=self.WHICH.value)
        self.window = window
        self.state = state
        self.moves = moves
        self.queries = queries
        self._key_actions = key_actions
        self.header = Lines(id="header")
        self.summary = Lines(id="summary")
        self.column_names = Lines(id="heading")
        self.grid = Grid(self._draw, id="grid")
        self.pane = Pane(id="pane")
        self._pane_height = PANE  # as its style sheet has it
        self.prompt = Prompt()
        self.footer = Lines(id="footer")

    def compose(self) -> ComposeResult:
        """Stacks header, summary, column names, grid, pane, prompt and footer."""
        yield self.header
        yield self.summary
        yield self.column_names
        yield self.grid
        yield self.pane
        yield self.prompt
        yield self.footer

    # ---- for each list ---------------------------------------------------------------------------------------

    def columns(self, width: int) -> tuple[Column, ...]:
        """The columns on a terminal of so many."""
        return self.COLUMNS

    def details(self, row: R, width: int, height: int) -> list[Line]:
        """The pane of a row."""
        return type(self).DETAILS(self.state, row, width)

    def pane_lines(self, width: int, height: int) -> tuple[list[Line], Shown | None]:
        """The pane of the selected row, and the part of it that R would act on if it is a preview.

        On lists whose rows accept orders the result of the last order is below it.
        """
        row = self.selected
        tell = self.state.order_tell if self.WHICH in ORDERED else None
        below = tell_lines(self.state, tell, width, 2) if tell is not None else []
        room = height - len(below)
        lines = self.details(row, width, room) if row is not None else nothing_selected()
        if self.WHICH in ORDERED:
            lines = [*lines[:room], *[()] * (room - len(lines)), *below]
        return lines, None

    def below_question(self, width: int) -> list[Line]:
        """Writes what stays in view of the selected row under a question, as far as there is room."""
        return []

    @property
    def selected(self) -> R | None:
        """The selected row."""
        return self._row(self.state.list_of(self.WHICH).selected)

    def _row(self, key: Any) -> R | None:
        """A row by its key; None when it is gone."""
        return self.state.rows_of(self.WHICH).get(key)

    @property
    def handlers(self) -> Handlers:
        """Actions that mean something on this list alone."""
        return {Action.OPEN: self.open}

    def open(self) -> None:
        """Opens what there is of the selected row, on lists whose rows can be opened."""

    def marked(self) -> frozenset[Hashable]:
        """Keys of the marked rows."""
        return frozenset()

    def key(self, action: Action) -> str:
        """The key of an action, for notices."""
        return self.state.keys.shown(action)

    def off(self, action: Action, why: str, style: str = "warn") -> None:
        """Show a notice that says why a key does nothing now."""
        self.window.notice(f"{self.key(action)} off: {why}", style)

    def as_text(self) -> str:
        """Header, names, every row of the list and the pane, as they would stand on this terminal."""
        width = self.size.width
        order = self.state.listing.order
        drawn = [heading(self.columns(width), width), *(self._draw(key, Span("  "), width) for key in order)]
        rows = "\n".join("".join(span.text for span in spans) for spans in drawn)
        text = "\n".join([self.header.text, self.summary.text, rows, "", self.pane.text])
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())

    # ---- drawing ---------------------------------------------------------------------------------------------

    def _draw(self, key: Any, lead: Span, width: int) -> Line:
        row = self._row(key)
        return laid_out(self.columns(width), type(self).CELLS(self.state, row), width, lead) if row is not None else ()

    def sync(self) -> None:
        """Draw the list. Lines that look the same are not written again."""
        state, width = self.state, self.size.width
        if not self.is_mounted or not width:
            return
        self.header.show([header_footer.header_line(state, width)])
        self.summary.show([header_footer.summary_line(state, width)])
        self.column_names.show([heading(self.columns(width), width)])
        self.prompt.fit()
        self.grid.sync(state.listing, marks=self.marked(), old=state.link is not Link.LIVE, message=self._message())
        self._sync_pane(width)
        self.footer.show(
            [
                header_footer.footer_line(
                    state.keys, self.WHICH, width, in_view=self.grid.rows_in_view, total=len(state.listing.order)
                )
            ]
        )

    def _message(self) -> str:
        """The message in a list without rows: loading, no match and empty are not the same."""
        state = self.state
        if state.link is Link.CONNECTING:
            return "no answer yet; trying again" if state.link_trouble else f"loading from {state.context} ..."
        fetch = state.fetches[self.WHICH] if self.WHICH in FETCHED else None
        if fetch is not None and fetch.at is None:
            return f"no answer: {fetch.trouble}; trying again" if fetch.trouble else "loading ..."
        listing = state.listing
        if listing.total and listing.filter.pattern is not None:
            return f"none of {plural(listing.total, 'row')} match; {state.keys.shown(Action.CLOSE)} clears the filter"
        return self.EMPTY

    def _sync_pane(self, width: int) -> None:
        question = self.moves.question
        if self._fit_pane(question.height(self.state.keys, width) if question is not None else 0):
            return  # drawn once it has its new height
        height = self.pane.size.height
        if question is not None:
            moves, keys = self.moves, self.state.keys
            moves.question_top = min(moves.question_top, question.last_top(keys, width, height))
            lines = [fit_line(spans, width) for spans in question.lines(keys, width, height, moves.question_top)]
            lines += self.below_question(width)[: max(0, height - len(lines))]
            self.pane.show_as(lines[:height], None, question.number if len(lines) <= height else None)
            return
        lines, shown = self.pane_lines(width, height)
        whole = height >= self.PANE  # a preview of which the terminal shows a part arms nothing
        self.pane.show_as(lines[:height], shown if whole else None, None)

    def _fit_pane(self, wanted: int) -> bool:
        """Give the pane its height: the usual one, or for a long list as much as leaves some rows in view.

        On a terminal that is too low it is cut rather than the prompt and the footer. Returns whether it has to be
        laid out anew first.
        """
        screen = self.size.height
        usual = PANE_TALL if screen >= TALL else self.PANE
        chrome = CHROME - 1 + self.prompt.height
        height = max(usual, min(wanted, screen - chrome - LEAST_ROWS))
        height = max(1, min(height, screen - chrome - 1))
        if self._pane_height == height:
            return False
        self._pane_height = height
        self.pane.styles.height = height
        self.call_after_refresh(self.sync)
        return True

    def on_resize(self, event: events.Resize) -> None:
        """Draw in the new size."""
        self.call_after_refresh(self.sync)

    def on_mount(self) -> None:
        """Draw for the first time."""
        self.sync()

    def on_screen_resume(self) -> None:
        """Paint the pane anew after a page has covered it."""
        self.pane.forget()
        self.pane.refresh()
        self.sync()

    # ---- keys ------------------------------------------------------------------------------------------------

    def on_key(self, event: events.Key) -> None:
        """Pass a key to the open input, or to the key table."""
        event.stop()
        event.prevent_default()
        asking = self.prompt.asking
        if asking is None:
            self._key_actions.pressed(event)
        elif event.key in ("escape", "ctrl+c"):
            self._key_actions.typed.prompt_left()
        elif event.key == "enter":
            self._key_actions.typed.submitted(asking, self.prompt.value)
        elif self.prompt.key(event) and asking is Asking.FILTER:
            self._key_actions.typed.filter_typed(self.prompt.value)

    def on_paste(self, event: events.Paste) -> None:
        """Pasted text outside inputs is no command."""
        event.stop()
        if self.prompt.asking is None:
            self.window.notice(
                f"pasted text ignored ({plural(len(event.text), 'character')}): no input is open", "warn"
            )
            return
        self.prompt.paste(event.text)
        if self.prompt.asking is Asking.FILTER:
            self._key_actions.typed.filter_typed(self.prompt.value)


def nothing_selected() -> list[Line]:
    """The pane without a row."""
    return [line(Span(" nothing is selected", "dim"))]
