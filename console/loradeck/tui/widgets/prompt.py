"""The line above the footer: a notice, or an input for a filter, a command or a reason."""

from __future__ import annotations

from enum import StrEnum

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input

from loradeck.tui.keys import complete
from loradeck.tui.text import Span, line
from loradeck.tui.widgets.lines import Lines


class Asking(StrEnum):
    """What is being typed; the value stands in front of it."""

    FILTER = "/"
    COMMAND = ":"
    REASON = "reason> "


class Prompt(Horizontal):
    """Shows a notice until it is opened for typing. Only while it is open does pasted text mean anything."""

    DEFAULT_CSS = """
    Prompt { height: 1; width: 100%; }
    Prompt #notice { width: 1fr; }
    Prompt #lead { width: 8; display: none; }
    Prompt Input { width: 1fr; height: 1; border: none; padding: 0; display: none; background: ansi_default; }
    Prompt.open #notice { display: none; }
    Prompt.open #lead, Prompt.open Input { display: block; }
    """

    class Submitted(Message):
        """What was typed was sent with enter."""

        def __init__(self, asking: Asking, text: str) -> None:
            super().__init__()
            self.asking = asking
            self.text = text

    class Typed(Message):
        """The filter changed while it is typed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(id="prompt")
        self.asking: Asking | None = None
        self._notice = Lines(id="notice")
        self._lead = Lines(id="lead")
        self._input = Input(compact=True, select_on_focus=False)
        self._input.cursor_blink = False
        self._input.can_focus = False

    def compose(self) -> ComposeResult:
        yield self._notice
        yield self._lead
        yield self._input

    def say(self, text: str, style: str = "") -> None:
        """The notice: replaces the one before."""
        self._notice.show([line(Span(f" {text}" if text else "", style))])

    @property
    def notice(self) -> str:
        return self._notice.text.strip()

    def open(self, asking: Asking, text: str = "") -> None:
        """Take typed text from now on."""
        self.asking = asking
        self._lead.show([line(Span(f" {asking.value}", "question"))])
        self._lead.styles.width = len(asking.value) + 1
        self._input.value = text
        self._input.cursor_position = len(text)
        self._input.can_focus = True
        self.add_class("open")
        self._input.focus()

    def close(self) -> None:
        """Keys are commands again."""
        self.asking = None
        self.remove_class("open")
        self._input.can_focus = False
        self.screen.set_focus(None)

    def complete(self) -> None:
        """Tab: the rest of a command's name."""
        if self.asking is Asking.COMMAND:
            self._input.value = complete(self._input.value)
            self._input.cursor_position = len(self._input.value)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.asking is Asking.FILTER:
            self.post_message(self.Typed(event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self.asking is not None:
            self.post_message(self.Submitted(self.asking, event.value))
