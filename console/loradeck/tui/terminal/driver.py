"""The terminal, read and written so that a key never acts on what was not seen.

On top of Textual's driver it counts the keys of one read, keeps a terminal's answers apart from typed keys however
the bytes are cut, counts the accepted output, and reports once when the terminal is gone.
"""

from __future__ import annotations

import os
import re
import selectors
import sys
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, cast

from textual import events
from textual._parser import ParseError
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

if TYPE_CHECKING:
    from textual.app import App

CURSOR_REQUEST = "\x1b[6n"

_ANSWER = re.compile(r"\x1b\[\d+;\d+R")
_PART = re.compile(r"\x1b\[\d*(?:;\d*)?\Z")
_REST = re.compile(r"\[\d+;\d+R")
_REST_PART = re.compile(r"\[\d*(?:;\d*)?\Z")


class TerminalAnswered(Message, bubble=False):
    """The terminal answered the oldest open cursor-position request."""


class TerminalGone(Message, bubble=False):
    """The terminal hung up: there is nobody to show anything to."""


class AnswerFilter:
    """Removes cursor-position answers from the input, however they are cut.

    An answer ends in `R`, which is also the key that rolls back; over a slow link its bytes may come in
    several reads. While an answer is outstanding a beginning of one is held back until it is complete.
    """

    def __init__(self) -> None:
        self._held = ""
        self._after_escape = False

    def feed(self, data: str, *, expecting: bool) -> tuple[str, int]:
        """Split a read into the typed text and the number of answers that came with it."""
        data = self._held + data
        self._held = ""
        answers = 0
        if self._after_escape and expecting:
            # The escape was passed on as a key of its own when the rest did not follow in time.
            if match := _REST.match(data):
                answers, data = 1, data[match.end() :]
            elif _REST_PART.match(data):
                self._held = data
                return "", 0
        data, found = _ANSWER.subn("", data)
        answers += found
        if expecting and (part := _PART.search(data)):
            self._held = data[part.start() :]
            data = data[: part.start()]
        if data:
            self._after_escape = data.endswith("\x1b")
        elif answers:
            self._after_escape = False
        return data, answers


class CountedFile:
    """The terminal's output file, which knows how many characters it has taken. It never raises.

    When the terminal is gone, writes are dropped: a hang-up is noticed by the reader.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.taken = 0
        self._gone = False

    def write(self, text: str) -> int:
        """Writes text and counts its characters; once the terminal is gone, it only counts."""
        if not self._gone:
            try:
                self._file.write(text)
                self._file.flush()
            except (OSError, ValueError):
                self._gone = True
        self.taken += len(text)
        return len(text)

    def flush(self) -> None:
        """Every write is flushed at once."""

    def fileno(self) -> int:
        """File descriptor of the terminal."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Tells whether it is a terminal."""
        return self._file.isatty()


class DeckDriver(LinuxDriver):
    """Textual's driver for Linux and macOS with the guards above."""

    def __init__(
        self, app: App[Any], *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        assert sys.__stderr__ is not None
        self._counted = CountedFile(cast("IO[str]", sys.__stderr__))
        self._file = cast(Any, self._counted)
        self.written = 0
        self.expecting: Callable[[], bool] = lambda: False

    @property
    def accepted(self) -> int:
        """Characters the terminal's file has taken."""
        return self._counted.taken

    def start_application_mode(self) -> None:
        """As Textual's, but what is written never waits for the terminal: a full queue would hold up the keys.

        What piles up is bounded by the app, which draws nothing new before its last frame has been taken.
        """
        super().start_application_mode()  # type: ignore[no-untyped-call]
        if self._writer_thread is not None:
            self._writer_thread._queue.maxsize = 0

    def write(self, data: str) -> None:
        """Writes to the terminal and counts the characters."""
        self.written += len(data)
        super().write(data)

    def run_input_thread(self) -> None:
        """Textual's loop, with each read taken as one piece."""
        selector = selectors.SelectSelector()
        selector.register(self.fileno, selectors.EVENT_READ)
        parser = XTermParser(self._debug)
        decode = getincrementaldecoder("utf-8")(errors="replace").decode
        answers = AnswerFilter()
        try:
            while not self.exit_event.is_set():
                if selector.select(0.1):
                    try:
                        read = os.read(self.fileno, 4096)
                    except OSError:
                        read = b""
                    if not read:
                        self.process_message(TerminalGone())
                        return
                    typed, answered = answers.feed(decode(read), expecting=self.expecting())
                    for _ in range(answered):
                        self.process_message(TerminalAnswered())
                    if typed:
                        self._pass_on(parser.feed(typed))
                self._pass_on(parser.tick())
        finally:
            selector.close()
            try:
                for _ in parser.feed(""):
                    pass
            except (EOFError, ParseError):
                pass

    def _pass_on(self, read: Iterable[Message]) -> None:
        """Send on what one read held, each key knowing how many came with it."""
        messages = list(read)
        keys = [message for message in messages if isinstance(message, events.Key)]
        for key in keys:
            set_together(key, len(keys))
        for message in messages:
            if isinstance(message, events.CursorPosition):
                self.process_message(TerminalAnswered())
            else:
                self.process_message(message)


def set_together(key: events.Key, count: int) -> None:
    """Note on a key how many came in its read."""
    key.together = count  # type: ignore[attr-defined]


def together(key: events.Key) -> int:
    """Counts the keys that came in the same read as this one; 1 where nobody counted."""
    return cast(int, getattr(key, "together", 1))
