"""Progress on the screen: one line a step, alive while it runs, with the time it took once it is done."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

LINE_EVERY_S = 5.0
"""Without a terminal a step that goes on says so this often."""


class Progress:
    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._last = 0.0
        self._label = ""
        self._began = 0.0

    @contextlib.contextmanager
    def step(self, label: str) -> Iterator[Progress]:
        """A step; `update` inside it says how far it is."""
        self._label, self._began, self._last = label, time.monotonic(), time.monotonic()
        if self._terminal:
            self._print(f"  {label} ...")
        try:
            yield self
        except BaseException:
            self._finish("FAILED")
            raise
        self._finish("done")

    def update(self, how_far: str) -> None:
        now = time.monotonic()
        if self._terminal:
            self._print(f"  {self._label}: {how_far}")
        elif now - self._last >= LINE_EVERY_S:
            self._last = now
            print(f"  {self._label}: {how_far} ({now - self._began:.0f} s)", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def _finish(self, how: str) -> None:
        text = f"  {self._label}: {how} ({time.monotonic() - self._began:.1f} s)"
        if self._terminal:
            self._print(text)
            print(flush=True)
        else:
            print(text, flush=True)

    def _print(self, text: str) -> None:
        print(f"\r{text[:98]:<98}", end="", flush=True)
