"""What becomes of typed text: a filter, a command, a reason, a time, an incident."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loradeck.client.config import Context
from loradeck.client.connect import endpoint
from loradeck.client.errors import ClientError
from loradeck.client.terminal_text import clean
from loradeck.client.timeline import as_json, as_markdown, timeline
from loradeck.tui.actions.moves import Moves
from loradeck.tui.actions.window import Window
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.keys.default_bindings import CommandError, parse
from loradeck.tui.lines.outcome import error_line
from loradeck.tui.model.lists import FilterError, RowFilter
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.terminal.export import default_name, save
from loradeck.tui.text.line_editor import Recall
from loradeck.tui.text.spans import plural
from loradeck.tui.widgets.prompt import Asking


@dataclass(eq=False)
class TypedText:
    """The text typed into the line above the footer.

    Args:
        do: does an action as its key would.
        contexts: reads the hubs that `:ctx` may go to, by name; may raise ConfigError.
    """

    _window: Window
    _state: ConsoleState
    _moves: Moves
    _do: Callable[[Action], None]
    contexts: Callable[[], Mapping[str, Context]]
    commands: Recall = field(default_factory=Recall, init=False)
    filters: Recall = field(default_factory=Recall, init=False)
    _filter_before: RowFilter = field(default=RowFilter(), init=False)  # what esc in a filter input goes back to

    def open_filter(self) -> None:
        """Type a filter of the list in front, beginning with the one it has."""
        if self._window.front is not None:
            self._filter_before = self._state.listing.filter
            self._window.front.prompt.open(Asking.FILTER, self._filter_before.text, self.filters)

    def open_command(self) -> None:
        """Type a command."""
        if self._window.front is not None:
            self._window.front.prompt.open(Asking.COMMAND, "", self.commands)

    def filter_typed(self, text: str) -> None:
        """While a filter is typed the list follows; a half-typed expression leaves it as it is."""
        with contextlib.suppress(FilterError):
            self._state.set_filter(RowFilter.parse(text))
        self._window.draw_front()

    def prompt_left(self) -> None:
        """Esc in an input."""
        front = self._window.front
        if front is None:
            return
        if front.prompt.asking is Asking.FILTER:
            self._state.set_filter(self._filter_before)
        self._moves.question = None
        front.prompt.close()
        self._window.notice("")
        self._window.draw_front()

    def submitted(self, asking: Asking, text: str) -> None:
        """Enter in an input."""
        front = self._window.front
        if front is None:
            return
        if asking is Asking.REASON:
            if self._moves.give_reason(text):
                front.prompt.close()
        elif asking is Asking.MOMENT:
            if self._moves.rewind_to(text):
                front.prompt.close()
        else:
            front.prompt.close()
            self._window.notice("")  # what was said of the line
            match asking:
                case Asking.INCIDENT:
                    self._moves.annotate(text)
                case Asking.FILTER:
                    self._filter(text)
                case Asking.COMMAND:
                    self.commands.add(text)
                    self._run_command(text)
        self._window.draw_front()

    def _filter(self, text: str) -> None:
        self.filters.add(text)
        try:
            self._state.set_filter(RowFilter.parse(text))
        except FilterError as error:
            self._state.set_filter(self._filter_before)
            self._window.notice(clean(str(error)), "bad")

    def _run_command(self, text: str) -> None:
        try:
            command, argument = parse(text)
        except CommandError as error:
            self._window.notice(clean(str(error)), "bad")
            return
        match command:
            case "":
                return
            case "q":
                self._moves.press(Action.QUIT)
            case "promote" | "promote!":
                self._window.show_list(Screen.TENANTS)
                self._moves.promote(argument or None, override=command.endswith("!"))
            case "rollback" | "undo" | "fallback" | "hold":
                self._window.show_list(Screen.TENANTS)
                self._moves.press(Action(command))
            case "rewind":
                self._window.show_list(Screen.TENANTS)
                if not self._moves.bars(Action.REWIND) and not (argument and self._moves.rewind_to(argument)):
                    self._moves.ask_moment()
            case "events":
                self._window.show_events(argument)
            case "save":
                self.save(argument)
            case "export":
                self.export(argument)
            case "ctx":
                self.switch(argument)
            case _:
                self._do(Action(command))

    def save(self, name: str) -> None:
        """The list in front and its pane, as a file. Without a name: one with the time."""
        front = self._window.front
        if front is None:
            return
        now_ms = self._state.hub_now_ms or int(time.time() * 1000)
        path = self._write(name or str(default_name(front.WHICH.value, now_ms)), front.as_text())
        if path is not None:
            self._window.notice(f"saved {plural(len(self._state.listing.order), 'row')} to {path}")

    def _write(self, name: str, text: str) -> str | None:
        """Write a new file. Returns its path for people; None if it could not be written, which a notice explains."""
        path = Path(name)
        try:
            path = path.expanduser()
            save(path, text)
        except (OSError, RuntimeError, ValueError) as error:  # the last two: no such user, a zero byte
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._window.notice(f"not saved: {clean(str(path))}: {clean(why or '')}", "bad")
            return None
        return clean(str(path.resolve()))

    def export(self, name: str) -> None:
        """Write the events of the events screen to a new file as a timeline; the suffix chooses Markdown or JSON."""
        state = self._state
        write = {".md": as_markdown, ".json": as_json}.get(Path(name).suffix.lower())
        if write is None:
            self._window.notice("export FILE.md or FILE.json", "warn")
            return
        state.arrange(force=True)
        shown, kept = state.event_list, len(state.listed_events)
        scope = f"{len(shown.order):,} of the {kept:,} newest events that a console held"
        scope += f", filter {shown.filter.text}" if shown.filter.text else ""
        made = timeline(
            (state.listed_events[rev] for rev in shown.order),
            hub=state.status.hub if state.status is not None else self._state.context,
            made_ms=state.hub_now_ms or int(time.time() * 1000),
            scope=scope,
        )
        path = self._write(name, write(made, state.name_of))
        if path is not None:
            done = f"exported {plural(len(made.events), 'event')} to {path}; chain: {made.chain}"
            self._window.notice(done, "bad" if made.broken else "")

    def switch(self, name: str) -> None:
        """Ends this console; one on that hub begins, without marks, filter or anything pending."""
        try:
            contexts = self.contexts()
        except ClientError as error:
            self._window.notice(f"ctx off: {error_line(error)}", "bad")
            return
        known = ", ".join(clean(known) for known in sorted(contexts)) or "none"
        if not name:
            self._window.notice(f"here: {clean(self._state.context)}; known: {known}")
        elif name not in contexts:
            self._window.notice(f"no context {clean(name)!r}; known: {known}", "warn")
        elif self._state.unfinished:
            self._window.notice("ctx off: your last move is not finished", "warn")
        else:
            try:
                endpoint(contexts[name])  # what does not work there keeps this console
            except ClientError as error:
                self._window.notice(f"ctx off: {error_line(error)}", "bad")
                return
            self._window.exit(contexts[name])
