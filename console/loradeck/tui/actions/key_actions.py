"""What each key does: its action by the person's keys, and that action's handler. Moves go on to `Moves.press`."""

import os
from functools import partial

from rich.cells import chop_cells
from textual import events

from loradeck.client.terminal_text import clean
from loradeck.tui.actions.moves import Moves
from loradeck.tui.actions.typed_text import TypedText
from loradeck.tui.actions.window import Handlers, Window
from loradeck.tui.key_checks.decide import DECIDED
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.keys.default_bindings import Binding
from loradeck.tui.lines.help_text import help_lines
from loradeck.tui.lines.rollback_panel import pin_command
from loradeck.tui.model.lists import RowFilter
from loradeck.tui.model.sent_moves import is_done
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.terminal.driver import together
from loradeck.tui.terminal.export import MOST_BYTES, load_tmux_buffer
from loradeck.tui.text.spans import Line, line, plural
from loradeck.tui.widgets.page import Page, pressed


class KeyActions:
    """The keys outside inputs. A list in front adds handlers of its own, or replaces these."""

    def __init__(self, window: Window, state: ConsoleState, moves: Moves, typed: TypedText) -> None:
        self._window = window
        self._state = state
        self._moves = moves
        self.typed = typed
        self.handlers: Handlers = {
            **{action: partial(moves.press, action) for action in DECIDED},
            Action.PROMOTE: partial(moves.promote, None, override=False),
            Action.OVERRIDE: partial(moves.promote, None, override=True),
            Action.REWIND: moves.ask_moment,
            Action.ANNOTATE: moves.ask_incident,
            Action.CONFIRM: moves.confirm,
            Action.CLOSE: self._close,
            Action.QUIT: self._quit,
            Action.MARK: self._mark,
            Action.MARK_ALL: self._mark_all,
            Action.SORT: self._sort,
            Action.COPY: self._copy_selection,
            Action.JSON: self._json,
            Action.FILTER: typed.open_filter,
            Action.COMMAND: typed.open_command,
            Action.HELP: self._help,
            **{Action(which.value): partial(window.show_list, which) for which in Screen},
            Action.DOWN: partial(self._step, 1),
            Action.UP: partial(self._step, -1),
            Action.PAGE_DOWN: partial(self._page, 1),
            Action.PAGE_UP: partial(self._page, -1),
            Action.FIRST: partial(self._jump, 0),
            Action.LAST: partial(self._jump, -1),
        }

    def pressed(self, event: events.Key) -> None:
        """A key outside inputs."""
        state, keys = self._state, self._state.keys
        state.touched()
        key, count = pressed(event), together(event)
        binding = keys.lookup(key, state.screen)
        if count > 1 and not (binding is not None and binding.repeats):
            self._window.notice(f"{count} keys came at once: not taken as commands", "warn")
            return
        if binding is None:
            self._window.notice(keys.means_nothing(key, state.screen), "dim")
            return
        self._window.notice("")
        if self._moves.question is not None and not self._passes_question(binding):
            return
        if binding.action in (Action.OPEN, Action.MARK) and state.listing.index is None:
            self._window.notice(f"{binding.shown} off: no row is selected", "dim")
            return
        self.do(binding.action)
        self._window.after_key()

    def do(self, action: Action) -> None:
        """Do an action as the list in front does it."""
        front = self._window.front
        own = front.handlers.get(action) if front is not None else None
        (own or self.handlers[action])()

    def _passes_question(self, binding: Binding) -> bool:
        """Tells whether a key goes on although a question is open. Anything but y and esc drops the question."""
        question = self._moves.question
        assert question is not None
        if binding.action in (Action.CONFIRM, Action.CLOSE):
            return True
        if question.ask.listed and self._scrolls_question(binding.action):
            return False
        if binding.action in (Action.OPEN, question.action):
            confirm, close = (self._state.keys.shown(action) for action in (Action.CONFIRM, Action.CLOSE))
            self._window.notice(f"{binding.shown} does nothing here: {confirm} does it, {close} leaves")
            return False
        self._moves.question = None
        return True

    def _scrolls_question(self, action: Action) -> bool:
        """Tells whether an action moves the question's list. Drawing stops it at the end."""
        front = self._window.front
        page = max(1, (front.pane.size.height if front is not None else 9) - 4)
        by = {
            Action.DOWN: 1,
            Action.UP: -1,
            Action.PAGE_DOWN: page,
            Action.PAGE_UP: -page,
            Action.FIRST: -100_000,
            Action.LAST: 100_000,
        }.get(action)
        if by is None:
            return False
        self._moves.question_top = max(0, self._moves.question_top + by)
        self._window.draw_front()
        return True

    # ---- ways out ----------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Out of whatever is innermost."""
        state = self._state
        if self._moves.dismiss():
            return
        if state.listing.filter.pattern is not None:
            state.set_filter(RowFilter())
        elif state.screen is Screen.TENANTS and state.marks:
            state.marks.clear()
        elif state.screen is not Screen.TENANTS:
            self._window.show_list(Screen.TENANTS)
        else:
            self._window.notice(f"nothing is open here; {state.keys.shown(Action.QUIT)} quits", "dim")

    def _quit(self) -> None:
        if self._state.screen is not Screen.TENANTS:
            self._window.show_list(Screen.TENANTS)
        else:
            self._moves.press(Action.QUIT)

    # ---- the selection -----------------------------------------------------------------------------------------

    def _step(self, by: int) -> None:
        self._state.listing.step(by)

    def _page(self, by: int) -> None:
        front = self._window.front
        self._state.listing.step(by * (front.grid.page if front is not None else 1))

    def _jump(self, to: int) -> None:
        self._state.listing.jump(to)

    def _mark(self) -> None:
        self._state.toggle_mark()
        self._state.listing.step(1)

    def _mark_all(self) -> None:
        if not self._state.tenant_list.order:
            self._window.notice(f"{self._state.keys.shown(Action.MARK_ALL)} off: no row is shown", "dim")
        self._state.toggle_marks()

    def _sort(self) -> None:
        self._state.next_sort()
        self._window.notice(f"sorted by {self._state.sort.value}", "dim")

    def _copy_selection(self) -> None:
        state, row = self._state, self._state.row
        command = pin_command(row, state, whole=True) if row is not None and not is_done(row) else None
        wanted = (command if state.screen is Screen.TENANTS else None) or state.identity
        if wanted is None:
            self._window.notice("nothing to copy here", "dim")
            return
        size = len(wanted.encode())
        if size > MOST_BYTES:
            self._window.notice(f"not copied: {size:,} bytes; terminals take {MOST_BYTES:,}", "warn")
            return
        self._window.copy_to_clipboard(wanted)
        what = clean(wanted) if len(wanted) <= 64 else plural(len(wanted), "character")
        if os.environ.get("TMUX"):
            self._window.run_worker(self._copy_to_tmux(wanted, what), group="copy", exclusive=True)
        else:
            self._window.notice(f"copied {what} (if your terminal allows OSC 52)")

    async def _copy_to_tmux(self, wanted: str, what: str) -> None:
        if await load_tmux_buffer(wanted):
            self._window.notice(f"copied {what} to a buffer of tmux (its prefix, then ] pastes it)")
        else:
            self._window.notice(f"not copied: tmux did not take {what}; its set-clipboard on lets it through", "warn")

    # ---- pages -------------------------------------------------------------------------------------------------

    def _json(self) -> None:
        selected = self._state.selected
        if selected is None:
            self._window.notice("nothing is selected", "dim")
            return
        text = selected.model_dump_json(indent=2)

        def write(width: int) -> list[Line]:
            # Long lines are folded, so that digests and messages can be read whole.
            return [
                line(part) for whole in text.splitlines() for part in chop_cells(clean(whole), max(2, width)) or [""]
            ]

        self._window.push_screen(Page("json", write, leaves=self._state.keys.of(Action.JSON)))

    def _help(self) -> None:
        keys, screen = self._state.keys, self._state.screen
        page = Page("help", partial(help_lines, keys, screen), leaves=keys.of(Action.HELP))
        self._window.push_screen(page)
