"""A real pty with a terminal emulator at its other end, and the console running in it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pyte

from loradeck.client.config import Context

_QUERIES = re.compile(rb"\x1b\[\?\d+\$p|\x1b\[[<>]\d*u")
"""What pyte would print instead of ignoring."""

REQUEST = b"\x1b[6n"

START = """
import sys
from pathlib import Path
from loradeck.client.config import Context
from loradeck.tui.app import run
def path(text): return Path(text) if text else None
name, url, sock, token, read_only, at = sys.argv[1:]
url, *others = url.split(",")
context = Context(name=name, url=url or None, others=tuple(others), socket=path(sock), token_file=path(token))
sys.exit(run(context, read_only=read_only == "yes", at=at or None))
"""


class Terminal:
    """What a person at the console sees and types. `answers`: whether it answers cursor-position requests."""

    def __init__(self, columns: int, lines: int) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = termios.tcgetattr(self._slave)
        self.raw = b""
        self.answered = ""
        """Lines of the screen, as they were when the console's last question to its terminal was answered."""
        self.answers = True
        self.unanswered = 0
        self.program = START
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, context: Context, *, read_only: bool, at: str, env: dict[str, str]) -> None:
        arguments = [
            context.name,
            ",".join(context.addresses) if context.url else "",
            str(context.socket or ""),
            str(context.token_file or ""),
            "yes" if read_only else "no",
            at,
        ]
        clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLORTERM", "TMUX", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.program, *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            env={**clean, "TERM": "xterm-256color", "TZ": "UTC", **env},
        )
        os.set_blocking(self.master, False)
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self.master, 65536)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self.master)
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        self.raw += data
        frame, *later = data.split(REQUEST)
        self._stream.feed(_QUERIES.sub(b"", frame))
        for frame in later:
            if self.answers:
                self.answered = self.text
                self.type(b"\x1b[1;1R")
            else:
                self.unanswered += 1
            self._stream.feed(_QUERIES.sub(b"", frame))

    async def drain(self, bytes_per_s: int) -> None:
        """Read so many bytes a second and no more, until cancelled."""
        self.stall()
        while True:
            await asyncio.sleep(0.05)
            with contextlib.suppress(BlockingIOError):
                self._take(os.read(self.master, bytes_per_s // 20))

    def stall(self) -> None:
        """Nobody reads what the console writes any more."""
        asyncio.get_running_loop().remove_reader(self.master)

    def resume(self) -> None:
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def type(self, data: bytes | str) -> None:
        """One write: what it holds arrives as one read."""
        os.write(self.master, data.encode() if isinstance(data, str) else data)

    async def confirms(self) -> None:
        """`y` once the console was answered for its question, and again while it says that this is not seen yet."""
        await self.until(lambda: "y or esc?" in self.answered, "the question was answered for")
        for _ in range(600):
            self.type("y")
            await self.until(lambda: "y or esc?" not in self.text or "y not taken" in self.text, "y taken or refused")
            if "y or esc?" not in self.text:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"y is never taken\n{self.text}")

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def line(self, word: str) -> str:
        """The first line that holds a word; '' when none does."""
        return next((line for line in self.screen.display if word in line), "")

    async def until(self, condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition():
            assert self.process is not None
            if loop.time() > deadline or self.process.poll() is not None:
                raise AssertionError(f"not within {seconds} s: {what}; rc {self.process.poll()}\n{self.text}")
            await asyncio.sleep(0.01)

    async def shows(self, *words: str, seconds: float = 60) -> None:
        await self.until(lambda: all(word in self.text for word in words), f"shows {words}", seconds)

    async def ended(self) -> int:
        """The exit status; what was written last has been read."""
        process = self.process
        assert process is not None
        deadline = asyncio.get_running_loop().time() + 60
        while process.poll() is None:
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"the console does not end\n{self.text}")
            await asyncio.sleep(0.01)
        with contextlib.suppress(OSError):  # nothing is left, or it has hung up
            while left := os.read(self.master, 65536):
                self._take(left)
        return process.wait()

    @property
    def is_clean(self) -> bool:
        """Whether the terminal is as it was: main screen, cursor shown, paste mode off, line discipline back."""
        last = {code: max(self.raw.rfind(b"\x1b[?" + code + b"h"), -1) for code in (b"1049", b"2004", b"1004")}
        off = all(self.raw.rfind(b"\x1b[?" + code + b"l") > at for code, at in last.items())
        cursor = self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l")
        return off and cursor and termios.tcgetattr(self._slave) == self.before

    def hang_up(self) -> None:
        """The other end is gone, as when a connection drops."""
        with contextlib.suppress(ValueError):
            asyncio.get_running_loop().remove_reader(self.master)
        os.close(self._slave)
        os.close(self.master)
        self.master = self._slave = -1

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.master >= 0:
            asyncio.get_running_loop().remove_reader(self.master)
            os.close(self.master)
            os.close(self._slave)


@asynccontextmanager
async def console(
    context: Context,
    *,
    columns: int = 100,
    lines: int = 30,
    read_only: bool = False,
    at: str = "",
    answers: bool = True,
    env: dict[str, str] | None = None,
    program: str = START,
) -> AsyncIterator[Terminal]:
    """A console in a terminal of its own, killed at the end if it still runs. `program`: what starts it."""
    terminal = Terminal(columns, lines)
    terminal.program = program
    terminal.answers = answers
    try:
        terminal.start(context, read_only=read_only, at=at, env=env or {})
        yield terminal
    finally:
        terminal.close()
