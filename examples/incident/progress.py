"""Progress on the screen: one line a step, redrawn at most once a second, with the time it took once it is done."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

REDRAW_S = 1.0
"""In a terminal a step's line is redrawn at most this often."""

LINE_EVERY_S = 5.0
"""Elsewhere a step that goes on prints a line this often."""


class Progress:
    """Prints steps to standard output: redrawn lines in a terminal, whole lines elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._last = 0.0
        self._label = ""
        self._began = 0.0

    @contextlib.contextmanager
    def step(self, label: str) -> Iterator[Progress]:
        """A step for the length of the block; `update` inside it says how far it is."""
        self._label, self._began, self._last = label, time.monotonic(), time.monotonic()
        if self._terminal:
            self._draw(f"  {label} ...")
        try:
            yield self
        except BaseException:
            self._finish("FAILED")
            raise
        self._finish("done")

    def update(self, how_far: str) -> None:
        """Shows how far the step is, unless that was shown a moment ago."""
        now = time.monotonic()
        if now - self._last < (REDRAW_S if self._terminal else LINE_EVERY_S):
            return
        self._last = now
        if self._terminal:
            self._draw(f"  {self._label}: {how_far}")
        else:
            print(f"  {self._label}: {how_far} ({now - self._began:.0f} s)", flush=True)

    def say(self, text: str) -> None:
        """Prints text as it is, on lines of its own."""
        print(text, flush=True)

    def _finish(self, how: str) -> None:
        text = f"  {self._label}: {how} ({time.monotonic() - self._began:.1f} s)"
        if self._terminal:
            self._draw(text)
            print(flush=True)
        else:
            print(text, flush=True)

    def _draw(self, text: str) -> None:
        # A line that wraps is not drawn over by the next one, so it is cut before the last column.
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:<{width}}", end="", flush=True)


@dataclass
class Board:
    """The things that go on at the same time within one step, each with how far it is."""

    _lines: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All of them, those that began first before the others."""
        return ", ".join(f"{what} {how_far}".strip() for what, how_far in self._lines.items())

    def show(self, what: str, how_far: str = "") -> None:
        """Shows how far a thing is; it appears with the first call."""
        self._lines[what] = how_far

    def drop(self, what: str) -> None:
        """Takes a thing that is over off the board."""
        self._lines.pop(what, None)
