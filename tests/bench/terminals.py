"""Programs in pseudo-terminals whose bytes are counted and whose screens are read, several beside each other."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from incident.fleet import BIN, NotReady
from incident.keyboard import Keyboard

QUIET_S = 0.02
"""A frame is over when nothing follows for this long."""

MOVES_S = 10.0
"""A cursor that has not moved for this long after its key never will."""

STARTS_S = 180.0


@dataclass(frozen=True)
class Program:
    """What is watched, and on which lines of its screen the rows stand."""

    command: Sequence[str]
    lines: range

    @classmethod
    def console(cls, hub: Path) -> Program:
        """The console on the hub's socket."""
        return cls((str(BIN / "loradeck"), "--hub", f"unix:{hub}"), range(3, 19))

    @classmethod
    def table(cls, hub: Path) -> Program:
        """The console's peer."""
        return cls((sys.executable, "-m", "tests.bench.peer_table", str(hub)), range(2, 29))

    @classmethod
    def bare(cls) -> Program:
        """The console's floor."""
        return cls((sys.executable, "-m", "tests.bench.bare_list"), range(16))


class Counted(Keyboard):
    """A terminal that counts what is written to it. `beside`: others that are read whenever this one is."""

    def __init__(self, program: Program, *beside: Counted) -> None:
        super().__init__(program.command)
        self.bytes = 0
        self._lines = program.lines
        self._beside = beside

    @property
    def pid(self) -> int:
        """The program's process."""
        return self._process.pid

    def take(self, seconds: float) -> int:
        """Reads what comes within that time, once; CLOCK_MONOTONIC in nanoseconds of its coming, 0 for nothing.

        Raises: NotReady when the program has ended.
        """
        deadline = time.monotonic() + seconds
        of = {terminal._master: terminal for terminal in (self, *self._beside)}
        while True:
            readable, _, _ = select.select([*of], [], [], max(0.0, deadline - time.monotonic()))
            for master in readable:
                if of[master] is not self:
                    of[master]._feed()
            if self._master in readable:
                return self._feed()
            if not readable:
                if self._process.poll() is not None:
                    raise NotReady(f"the program ended with {self._process.returncode}:\n{self.text}")
                return 0

    def _feed(self) -> int:
        at = time.monotonic_ns()
        try:
            data = os.read(self._master, 65536)
        except OSError:
            raise NotReady(f"the program ended with {self._process.wait()}:\n{self.text}") from None
        self.bytes += len(data)
        self._stream.feed(data)
        return at

    def until(self, shown: str, began: int) -> float:
        """Milliseconds from `began` to the bytes that showed this text, or with "" anything. Raises: NotReady."""
        at = began
        while shown not in self.text or not self.text.strip():
            if (time.monotonic_ns() - began) / 1e9 > STARTS_S:
                raise NotReady(f"{shown!r} not within {STARTS_S:g} s:\n{self.text}")
            at = self.take(1.0) or at
        return (at - began) / 1e6

    def watch(self, seconds: float) -> None:
        """Reads for that long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.take(left)

    def move(self, key: str) -> tuple[float, int]:
        """Presses a cursor key: milliseconds to the bytes that moved the cursor, and the bytes of that frame.

        Raises: NotReady: the cursor did not move.
        """
        self.watch(0.05)
        self._until_quiet()
        before, cursor = self.bytes, self._cursor()
        pressed = self.press(key)
        at = pressed
        while self._cursor() == cursor:
            at = self.take(MOVES_S)
            if not at or at - pressed > MOVES_S * 1e9:
                raise NotReady(f"the cursor did not move:\n{self.text}")
        self._until_quiet()
        return (at - pressed) / 1e6, self.bytes - before

    def _until_quiet(self) -> None:
        """Reads until a frame is over."""
        while self.take(QUIET_S):
            pass

    def _cursor(self) -> tuple[str, ...]:
        """What tells where a table's cursor is: a mark, a name, or a colour alone."""
        cells = self._screen.buffer
        return tuple("".join(cells[y][x].data for x in range(14)) + cells[y][2].bg for y in self._lines)
