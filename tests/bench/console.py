"""The console on a real hub with 100, 1,000 and 10,000 tenants and 1,000 nodes, through a pseudo-terminal.

Every tenant is served by two of the nodes, and its figures change with each of their reports. What is on the screen
is read through a terminal emulator; bytes are those the console wrote to its terminal (100 columns, 30 lines). The
figures at rest are taken with the data flowing and nobody typing. Beside the console the same feed is shown in a
plain Textual DataTable, in the same pseudo-terminal.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.rows import Row, cpu_s, quantile, rss_mb
from tests.bench.seeded import Seeded, seeded

from incident.fleet import BIN, NotReady
from incident.keyboard import Keyboard

NODES = 1_000
KEYS = 200
REST_S = 30.0
SETTLES_S = 8.0
"""After the list has come: labels, the first figures, and a garbage collection of what start-up left."""

QUIET_S = 0.02
"""A frame is over when nothing follows for this long."""

MOVES_S = 10.0
"""A cursor that has not moved for this long after its key never will."""

STARTS_S = 180.0
HURRIES_S = 3600.0


class Counted(Keyboard):
    """A terminal that counts what is written to it."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command)
        self.bytes = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def take(self, seconds: float) -> int:
        """Reads what comes within that time, once; CLOCK_MONOTONIC in nanoseconds of its coming, 0 for nothing.

        Raises: NotReady when the program has ended.
        """
        readable, _, _ = select.select([self._master], [], [], seconds)
        if not readable:
            if self._process.poll() is not None:
                raise NotReady(f"the program ended with {self._process.returncode}:\n{self.text}")
            return 0
        at = time.monotonic_ns()
        try:
            data = os.read(self._master, 65536)
        except OSError:
            raise NotReady(f"the program ended with {self._process.wait()}:\n{self.text}") from None
        self.bytes += len(data)
        self._stream.feed(data)
        return at

    def watch(self, seconds: float) -> None:
        """Reads for that long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.take(left)

    def quiet(self) -> None:
        """Reads until a frame is over."""
        while self.take(QUIET_S):
            pass

    def cursor(self, lines: range) -> tuple[str, ...]:
        """What tells where a table's cursor is on those lines of the screen: a mark, a name, or a colour alone."""
        cells = self._screen.buffer
        return tuple("".join(cells[y][x].data for x in range(14)) + cells[y][2].bg for y in lines)


@dataclass
class Seen:
    """What was measured of one program."""

    frame_ms: float = 0.0
    rows_ms: float = 0.0
    keys_ms: list[float] = field(default_factory=list)
    key_bytes: list[int] = field(default_factory=list)
    bytes_s: float = 0.0
    core: float = 0.0
    start_mb: float = 0.0
    later_mb: float | None = None


@dataclass(frozen=True)
class Program:
    """What is watched, and on which lines of its screen the rows stand."""

    command: Sequence[str]
    lines: range

    @classmethod
    def console(cls, hub: Seeded) -> Program:
        return cls((str(BIN / "loradeck"), "--hub", f"unix:{hub.socket}"), range(3, 19))

    @classmethod
    def peer(cls, hub: Seeded) -> Program:
        return cls((sys.executable, "-m", "tests.bench.peer_table", str(hub.socket)), range(2, 29))


def measure(
    *,
    sizes: Sequence[int] = (10_000,),
    nodes: int = NODES,
    keys: int = KEYS,
    rest_s: float = REST_S,
    hours: float = 0.1,
) -> list[Row]:
    """About two minutes on two free cores for one size; with 10,000 tenants an hour of updates takes one more."""
    rows: list[Row] = []
    for size in sizes:
        print(f"   {size:,} tenants on {nodes:,} nodes, {hours:g} h of updates", flush=True)
        with seeded(nodes, size, ticks=round(hours * 3600)) as hub:
            pressed = cursor_keys(keys, size)
            console = _watched(Program.console(hub), pressed, rest_s, hub)
            peer = _watched(Program.peer(hub), pressed, rest_s, None)
        rows += _rows(size, nodes, hours, rest_s, console, peer)
    return rows


def cursor_keys(many: int, rows: int) -> str:
    """So many keys that each move the cursor, from the first of `rows` rows on: down, and back up from the last."""
    there = rows - 1
    return "".join("k" if n // there % 2 else "j" for n in range(many))


def _watched(program: Program, keys: str, rest_s: float, hub: Seeded | None) -> Seen:
    """`hub`: hands out hours of updates at the end; None: it does not."""
    seen = Seen()
    began = time.monotonic_ns()
    with Counted(program.command) as terminal:
        at = 0
        while not terminal.text.strip():
            at = _next(terminal, began)
        seen.frame_ms = (at - began) / 1e6
        while "sim-0" not in terminal.text:
            at = _next(terminal, began)
        seen.rows_ms = (at - began) / 1e6
        terminal.watch(SETTLES_S)
        seen.start_mb = rss_mb(terminal.pid)
        for key in keys:
            _press(terminal, key, program.lines, seen)
        terminal.watch(3.0)  # the order of rows thaws
        before, cpu, started = terminal.bytes, cpu_s(terminal.pid), time.monotonic()
        terminal.watch(rest_s)
        took = time.monotonic() - started
        seen.bytes_s = (terminal.bytes - before) / took
        seen.core = (cpu_s(terminal.pid) - cpu) / took * 100
        if hub is not None:
            hub.hurry(lambda: terminal.watch(0.2), HURRIES_S)
            terminal.watch(1.0)
            seen.later_mb = rss_mb(terminal.pid)
    return seen


def _next(terminal: Counted, began: int) -> int:
    if (time.monotonic_ns() - began) / 1e9 > STARTS_S:
        raise NotReady(f"nothing to see within {STARTS_S:g} s:\n{terminal.text}")
    return terminal.take(1.0)


def _press(terminal: Counted, key: str, lines: range, seen: Seen) -> None:
    """One cursor key: the time to the bytes that moved the cursor, and the bytes of that frame."""
    terminal.watch(0.05)
    terminal.quiet()
    before, cursor = terminal.bytes, terminal.cursor(lines)
    pressed = terminal.press(key)
    at = pressed
    while terminal.cursor(lines) == cursor:
        at = terminal.take(MOVES_S)
        if not at or at - pressed > MOVES_S * 1e9:
            raise NotReady(f"the cursor did not move:\n{terminal.text}")
    seen.keys_ms.append((at - pressed) / 1e6)
    terminal.quiet()
    seen.key_bytes.append(terminal.bytes - before)


def _rows(size: int, nodes: int, hours: float, rest_s: float, console: Seen, peer: Seen) -> list[Row]:
    named, other = f"console, {size:,} tenants", f"peer: a Textual DataTable, {size:,} tenants"
    rows = [
        Row(
            f"{named}: first paint",
            console.frame_ms / 1000,
            "s",
            1,
            0.7,
            how="from the start of the process to the bytes of its first frame, which says that it is loading",
        ),
        Row(
            f"{named}: first rows",
            console.rows_ms / 1000,
            "s",
            1,
            how=f"to the list itself, of {nodes:,} nodes too, as the hub puts it together",
        ),
        *_keys(named, console, budget=True),
        Row(
            f"{named}: at rest, of a core",
            console.core,
            "%",
            round(rest_s),
            5.0,
            how="CPU of its process over so many seconds, figures changing, nobody typing",
        ),
        Row(f"{named}: at rest, to the terminal", console.bytes_s, "bytes/s", round(rest_s)),
        Row(f"{named}: resident memory at the start", console.start_mb, "MB", 1, 120.0),
    ]
    if console.later_mb is not None:
        rows.append(
            Row(
                f"{named}: resident memory after {hours:g} h of updates",
                console.later_mb,
                "MB",
                round(hours * 3600),
                120.0,
                how="the hub's own feed, a second's figures as soon as those of the second before were taken; "
                "meanwhile the nodes report that serve what is shown",
            )
        )
    rows += [
        Row(f"{other}: first rows", peer.rows_ms / 1000, "s", 1, how="the same feed, rows in a plain DataTable"),
        *_keys(other, peer, budget=False),
        Row(f"{other}: at rest, of a core", peer.core, "%", round(rest_s)),
        Row(f"{other}: at rest, to the terminal", peer.bytes_s, "bytes/s", round(rest_s)),
        Row(f"{other}: resident memory at the start", peer.start_mb, "MB", 1),
    ]
    return rows


def _keys(named: str, seen: Seen, *, budget: bool) -> list[Row]:
    n = len(seen.keys_ms)
    return [
        Row(f"{named}: key to paint, p50", quantile(seen.keys_ms, 50), "ms", n),
        Row(
            f"{named}: key to paint, p95",
            quantile(seen.keys_ms, 95),
            "ms",
            n,
            10.0 if budget else None,
            how="from the key's byte to the bytes that move the cursor in the emulator" if budget else "",
        ),
        Row(
            f"{named}: bytes for a cursor key, mean",
            sum(seen.key_bytes) / n,
            "bytes",
            n,
            1000.0 if budget else None,
            how="with the keys that scroll half a page and the preview of each row" if budget else "",
        ),
    ]
