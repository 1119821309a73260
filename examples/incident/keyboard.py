"""The real console in a pseudo-terminal: keys go in as bytes, the screen is read through a terminal emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import pyte

from incident.fleet import NotReady


class _Screen(pyte.Screen):  # type: ignore[misc]
    """A screen that answers what a terminal is asked, as a terminal does: the console arms R by such an answer."""

    def __init__(self, columns: int, lines: int, answer: Callable[[str], None]) -> None:
        super().__init__(columns, lines)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)


class Keyboard:
    """One console on one terminal. Use as a context manager; nothing of it is left behind."""

    def __init__(
        self, command: Sequence[str], *, columns: int = 100, lines: int = 30, state: Path | None = None
    ) -> None:
        """`state`: the console's state folder, emptied before and removed after; a temporary one if None."""
        self._command = command
        self._state = state
        self._size = (columns, lines)
        self._screen = _Screen(columns, lines, self._write)
        self._stream = pyte.ByteStream(self._screen)

    def __enter__(self) -> Keyboard:
        # Not the user's: a console goes on where the one before it was cut off.
        self._folder = self._state or Path(tempfile.mkdtemp(prefix="ld"))
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        self._master, slave = pty.openpty()
        columns, lines = self._size
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(lines)}
        env["XDG_STATE_HOME"] = str(self._folder)
        env.pop("NO_COLOR", None)
        self._process = subprocess.Popen(
            self._command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
        )
        os.close(slave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        os.close(self._master)
        shutil.rmtree(self._folder, ignore_errors=True)

    def press(self, keys: str) -> int:
        """Send keys; CLOCK_MONOTONIC in nanoseconds just before the first byte."""
        at = time.monotonic_ns()
        self._write(keys)
        return at

    def confirm(self) -> None:
        """Answer the question on the screen with `y`, again where the console does not know yet that it is shown.

        Raises:
            NotReady: twenty answers were not taken; the message holds the screen.
        """
        for _ in range(20):
            self.press("y")
            time.sleep(0.1)  # what an earlier `y` was answered is still on the screen
            self.wait("y taken or not", lambda text: "y or esc?" not in text or "y not taken" in text, 30)
            if "y or esc?" not in self.text:
                return
        raise NotReady(f"the console never took y; its screen:\n{self.text}")

    def wait(self, what: str, seen: Callable[[str], bool], seconds: float) -> int:
        """Read the screen until `seen(text)`; CLOCK_MONOTONIC in nanoseconds of the bytes that showed it.

        Raises:
            NotReady: it did not show in time; the message holds the screen.
        """
        deadline = time.monotonic() + seconds
        at = self._read(0) or time.monotonic_ns()
        while not seen(self.text):
            left = deadline - time.monotonic()
            if left <= 0 or self._process.poll() is not None:
                ended = "" if self._process.poll() is None else f" (it ended with {self._process.returncode})"
                raise NotReady(f"the console never showed {what}{ended}; its screen:\n{self.text}")
            at = self._read(min(left, 0.5)) or at
        return at

    def _read(self, seconds: float) -> int | None:
        """Shows what the console writes next, within `seconds`, on the screen; when that came, None if nothing did."""
        if not select.select([self._master], [], [], seconds)[0]:
            return None
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the console has closed its side
            return None
        at = time.monotonic_ns()
        self._stream.feed(data)
        return at

    @property
    def text(self) -> str:
        """The screen as lines of text."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    def _write(self, data: str) -> None:
        os.write(self._master, data.encode())
