"""The console's window, as actions and screens use it: the list in front, notices, pages, and work beside the keys."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Protocol

from loradeck.client.config import Context
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.widgets.grid import Grid
from loradeck.tui.widgets.page import Page
from loradeck.tui.widgets.pane import Pane
from loradeck.tui.widgets.prompt import Prompt

Handlers = Mapping[Action, Callable[[], None]]


class Front(Protocol):
    """The list in front."""

    WHICH: ClassVar[Screen]
    """The list that it shows."""

    prompt: Prompt
    grid: Grid
    pane: Pane

    @property
    def handlers(self) -> Handlers:
        """Actions that mean something on this list alone."""

    def as_text(self) -> str:
        """Its rows and its pane, for a file."""


class Window(Protocol):
    """The app around the list in front."""

    @property
    def front(self) -> Front | None:
        """The list in front; None while a page covers it."""

    def copy_to_clipboard(self, text: str) -> None:
        """Put text on the clipboard of the terminal, by OSC 52."""

    def notice(self, text: str, style: str = "") -> None:
        """Shows a line above the footer, until the next key."""

    def draw_front(self) -> None:
        """Draw the list in front."""

    def after_key(self) -> None:
        """Draw the effect of a key, and then ask for the figures of rows that came into view."""

    def show_list(self, which: Screen) -> None:
        """Bring a list to the front."""

    def show_events(self, word: str) -> None:
        """The events screen, filtered by a literal word."""

    def push_screen(self, screen: Page) -> object:
        """Open a page over the list in front."""

    def run_worker(self, work: Coroutine[Any, Any, None], *, group: str, exclusive: bool = False) -> object:
        """Run something beside the keys; an exclusive one ends those of its group before it."""

    def exit(self, result: Context | None = None) -> None:
        """Leave the console, for another hub or for good."""
