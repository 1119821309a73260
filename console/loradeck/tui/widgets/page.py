"""Screens over the lists: any of esc, q and ctrl+c leaves them. A page of text is one of them, scrolled by keys."""

from collections.abc import Callable, Collection
from typing import ClassVar, Generic, Protocol, TypeVar, cast

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen

from loradeck.tui.text.spans import Line, Span, line, spread
from loradeck.tui.widgets.lines import Lines

R = TypeVar("R")


class Paced(Protocol):
    """An app that knows whether its terminal keeps up."""

    @property
    def keeps_up(self) -> bool:
        """Whether the terminal has accepted all output so far. Periodic redraws wait until it has."""


def pressed(event: events.Key) -> str:
    """The name of a key in the key table: its character, or the toolkit's name."""
    typed = event.character if event.is_printable and event.character else event.key
    return "space" if typed == " " else typed


def scrolled(key: str, height: int, total: int) -> int | None:
    """Returns how many of `total` lines a key scrolls by, with `height` of them in view; None: it does not scroll."""
    page = max(1, height - 1)
    return {
        "j": 1, "down": 1, "k": -1, "up": -1, "pagedown": page, "space": page, "pageup": -page,
        "g": -total, "home": -total, "G": total, "end": total,
    }.get(key)  # fmt: skip


class Overlay(Screen[R], Generic[R], inherit_bindings=False):
    """A screen over the lists: blocks of lines from top to bottom, with a bar of keys below them."""

    BLOCKS: ClassVar[tuple[str, ...]] = ("body",)
    """The names of its blocks, for its style sheet."""

    DEFAULT_CSS = """
    Overlay { layout: vertical; background: ansi_default; color: ansi_default; overflow: hidden; }
    Overlay #body { height: 1fr; }
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.blocks = [Lines(id=block) for block in self.BLOCKS]
        self.bar = Lines(id="bar")
        self._left = False

    @property
    def body(self) -> Lines:
        """The block that takes the room there is."""
        return self.blocks[-1]

    def compose(self) -> ComposeResult:
        """Puts the blocks above the bar of keys."""
        yield from self.blocks
        yield self.bar

    @property
    def keeps_up(self) -> bool:
        """Whether the terminal has taken the last frame; one that has not gets no new one."""
        return cast(Paced, self.app).keeps_up

    def show(self, hint: str = "") -> None:
        """Draw it. `hint`: shown in the bar."""
        raise NotImplementedError

    def show_bar(self, keys: str, hint: str, right: str) -> None:
        """Draw the bar: its keys and a hint on the left, figures on the right."""
        left = [Span(keys, "dim"), Span(f"   {hint}" if hint else "", "warn")]
        self.bar.show([spread(left, line(Span(right, "dim")), self.bar.size.width)])

    def on_resize(self) -> None:
        """Draw in the new size."""
        self.call_after_refresh(self.show)

    def on_key(self, event: events.Key) -> None:
        """Leave, or do what the key means here."""
        event.stop()
        event.prevent_default()
        key = pressed(event)
        if key in ("escape", "q", "ctrl+c", "ctrl+q"):
            self.leave()
        else:
            self.take(key, event)

    def take(self, key: str, event: events.Key) -> None:
        """Do what a key means that does not leave."""
        raise NotImplementedError

    def leave(self, result: R | None = None) -> None:
        """Leave with a result; once, for keys may come faster than the screen goes."""
        if not self._left:
            self._left = True
            self.dismiss(result)

    def on_paste(self, event: events.Paste) -> None:
        """Ignore pasted text."""
        event.stop()


class Page(Overlay[None], inherit_bindings=False):
    """`write(width)` gives the page's lines for a terminal of that width. `leaves`: more keys that leave it.

    With `every` (seconds) they are written anew while one looks.
    """

    def __init__(
        self, name: str, write: Callable[[int], list[Line]], *, leaves: Collection[str] = (), every: float | None = None
    ) -> None:
        super().__init__(name)
        self._every = every
        self._write = write
        self._leaves = leaves
        self._top = 0
        self._lines: list[Line] = []

    def on_mount(self) -> None:
        """Begin to write the page anew in its interval, if it has one."""
        if self._every is not None:
            self.set_interval(self._every, self._again)

    def _again(self) -> None:
        if self.keeps_up:
            self.show()

    def show(self, hint: str = "") -> None:
        """Draw the page. `hint`: shown beside the keys."""
        width, height = self.body.size
        self._lines = self._write(width)
        self._top = max(0, min(self._top, len(self._lines) - height))
        self.body.show(self._lines[self._top : self._top + height])
        last = min(len(self._lines), self._top + height)
        keys = " j/k PgDn/PgUp scroll   esc leaves"
        self.show_bar(keys, hint, f"{self._top + 1}-{last}/{len(self._lines)} ")

    def take(self, key: str, event: events.Key) -> None:
        """Scroll, or leave by one of its own keys."""
        by = scrolled(key, self.body.size.height, len(self._lines))
        if key in self._leaves:
            self.leave()
        elif by is not None:
            self._top += by
            self.show()
        else:
            self.show(f"{key} means nothing on this page")
