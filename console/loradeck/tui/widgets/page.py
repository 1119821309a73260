"""A page of text over the lists, scrolled by keys; any of esc, q and ctrl+c leaves it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, cast

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from loradeck.tui.text.spans import Line, Span, line, spread
from loradeck.tui.widgets.lines import Lines


class Paced(Protocol):
    """An app that knows whether its terminal keeps up."""

    @property
    def keeps_up(self) -> bool:
        """Whether the terminal has accepted all output so far. Periodic redraws wait until it has."""
        ...


def pressed(event: events.Key) -> str:
    """The name of a key in the key table: its character, or the toolkit's name."""
    typed = event.character if event.is_printable and event.character else event.key
    return "space" if typed == " " else typed


class Page(Screen[None], inherit_bindings=False):
    """`write(width)` gives the page's lines for a terminal of that width. `leaves`: more keys that leave it.

    With `every` (seconds) they are written anew while one looks.
    """

    DEFAULT_CSS = """
    Page { layout: vertical; background: ansi_default; color: ansi_default; overflow: hidden; }
    Page #body { height: 1fr; }
    """

    def __init__(
        self, name: str, write: Callable[[int], list[Line]], *, leaves: Collection[str] = (), every: float | None = None
    ) -> None:
        super().__init__(name=name)
        self._every = every
        self._write = write
        self._leaves = leaves
        self._top = 0
        self._left = False
        self._lines: list[Line] = []
        self.body = Lines(id="body")
        self.bar = Lines(id="bar")

    def compose(self) -> ComposeResult:
        """Puts the text above the bar of keys."""
        yield self.body
        yield self.bar

    def on_mount(self) -> None:
        """Begin to write the page anew in its interval, if it has one."""
        if self._every is not None:
            self.set_interval(self._every, self._again)

    def _again(self) -> None:
        """A terminal that has not taken the last frame gets no new one."""
        if cast(Paced, self.app).keeps_up:
            self._show()

    def on_resize(self) -> None:
        """Draw in the new size."""
        self.call_after_refresh(self._show)

    def _show(self, hint: str = "") -> None:
        """Draw the page. `hint`: shown beside the keys."""
        width, height = self.body.size
        self._lines = self._write(width)
        self._top = max(0, min(self._top, len(self._lines) - height))
        self.body.show(self._lines[self._top : self._top + height])
        left = [Span(" j/k PgDn/PgUp scroll   esc leaves", "dim"), Span(f"   {hint}" if hint else "", "warn")]
        last = min(len(self._lines), self._top + height)
        self.bar.show([spread(left, line(Span(f"{self._top + 1}-{last}/{len(self._lines)} ", "dim")), width)])

    def on_key(self, event: events.Key) -> None:
        """Scroll or leave."""
        event.stop()
        event.prevent_default()
        page = max(1, self.body.size.height - 1)
        steps = {
            "j": 1, "down": 1, "k": -1, "up": -1, "pagedown": page, "space": page, "pageup": -page,
            "g": -len(self._lines), "home": -len(self._lines), "G": len(self._lines), "end": len(self._lines),
        }  # fmt: skip
        if event.key in ("escape", "q", "ctrl+c", "ctrl+q") or pressed(event) in self._leaves:
            if not self._left:  # keys may come faster than the screen goes
                self._left = True
                self.dismiss()
        elif event.key in steps:
            self._top += steps[event.key]
            self._show()
        else:
            self._show(f"{pressed(event)} means nothing on this page")

    def on_paste(self, event: events.Paste) -> None:
        """Ignore pasted text."""
        event.stop()
