"""The console on a real hub with 100, 1,000 and 10,000 tenants and 1,000 nodes, through a pseudo-terminal.

Every tenant is served by two of the nodes, and its figures change with each of their reports. What is on the screen
is read through a terminal emulator; bytes are those the console wrote to its terminal (100 columns, 30 lines). The
figures at rest are taken with the data flowing and nobody typing. Beside the console, in pseudo-terminals as well: an
app on Textual that marks one of sixteen lines (`bare_list.py`), started and pressed in turns with it, is the floor;
the same feed in a plain Textual DataTable (`peer_table.py`), at rest in the same seconds, the peer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.pairs import ratio_at, ratio_of_medians
from tests.bench.rows import Row, cpu_s, quantile, rss_mb
from tests.bench.seeded import Seeded, seeded
from tests.bench.terminals import Counted, Program

NODES = 1_000
KEYS = 200
STARTS = 5
REST_S = 30.0
SLICES = 10
SETTLES_S = 8.0
"""After the list has come: labels, the first figures, and a garbage collection of what start-up left."""

HURRIES_S = 3600.0

FIRST_PAINT, KEY = 4.3, 2.5
"""The most that the console may take to its first paint, and from a key to its paint, in multiples of a bare app's."""

AT_REST, MANY = 0.3, 10_000
"""The most of a core at rest, in multiples of what a DataTable takes of so many tenants: of few it takes little."""


@dataclass
class Seen:
    """What was measured of one program."""

    rows_ms: float = 0.0
    keys_ms: list[float] = field(default_factory=list)
    key_bytes: list[int] = field(default_factory=list)
    bytes_s: float = 0.0
    cores: list[float] = field(default_factory=list)
    """Of a core at rest, in per cent, in each slice of the time."""
    start_mb: float = 0.0
    later_mb: float = 0.0

    def press(self, terminal: Counted, key: str) -> None:
        """Presses a cursor key."""
        took, wrote = terminal.move(key)
        self.keys_ms.append(took)
        self.key_bytes.append(wrote)


@dataclass
class Watched:
    """What was measured of the console, its floor and its peer."""

    console: Seen = field(default_factory=Seen)
    bare: Seen = field(default_factory=Seen)
    table: Seen = field(default_factory=Seen)
    frames_ms: list[tuple[float, float]] = field(default_factory=list)
    """From the start of the process to its first bytes: the console, and the floor."""


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
            seen = Watched()
            seen.frames_ms += [
                (_first_frame(Program.console(hub.socket)), _first_frame(Program.bare())) for _ in range(STARTS)
            ]
            _watch(hub, seen, keys, size, rest_s)
        rows += _rows(size, nodes, hours, rest_s, seen)
    return rows


def cursor_keys(many: int, rows: int) -> str:
    """So many keys that each move the cursor, from the first of `rows` rows on: down, and back up from the last."""
    there = rows - 1
    return "".join("k" if n // there % 2 else "j" for n in range(many))


def _first_frame(program: Program) -> float:
    began = time.monotonic_ns()
    with Counted(program) as terminal:
        return terminal.until("", began)


def _watch(hub: Seeded, seen: Watched, keys: int, size: int, rest_s: float) -> None:
    pressed = cursor_keys(keys, size)
    began = time.monotonic_ns()
    with Counted(Program.console(hub.socket)) as console:
        _start(console, seen.console, began)
        with Counted(Program.bare(), console) as bare:
            bare.until("line", time.monotonic_ns())
            for key, bare_key in zip(pressed, cursor_keys(keys, 16), strict=True):
                seen.console.press(console, key)
                seen.bare.press(bare, bare_key)
        began = time.monotonic_ns()
        with Counted(Program.table(hub.socket), console) as table:
            _start(table, seen.table, began)
            for key in pressed:
                seen.table.press(table, key)
            table.watch(3.0)  # the order of the console's rows thaws
            _rest(table, [(console, seen.console), (table, seen.table)], rest_s)
        hub.hurry(lambda: console.watch(0.2), HURRIES_S)
        console.watch(1.0)
        seen.console.later_mb = rss_mb(console.pid)


def _start(terminal: Counted, seen: Seen, began: int) -> None:
    seen.rows_ms = terminal.until("sim-0", began)
    terminal.watch(SETTLES_S)
    seen.start_mb = rss_mb(terminal.pid)


def _rest(read: Counted, both: Sequence[tuple[Counted, Seen]], rest_s: float) -> None:
    """Watches terminals while nobody types. `read`: the one beside which all others are read."""
    written, started = [terminal.bytes for terminal, _ in both], time.monotonic()
    for _ in range(SLICES):
        before, began = [cpu_s(terminal.pid) for terminal, _ in both], time.monotonic()
        read.watch(rest_s / SLICES)
        took = time.monotonic() - began
        for (terminal, seen), cpu in zip(both, before, strict=True):
            seen.cores.append((cpu_s(terminal.pid) - cpu) / took * 100)
    took = time.monotonic() - started
    for (terminal, seen), before_bytes in zip(both, written, strict=True):
        seen.bytes_s = (terminal.bytes - before_bytes) / took


# ---- rows ----------------------------------------------------------------------------------------------------------


def _rows(size: int, nodes: int, hours: float, rest_s: float, seen: Watched) -> list[Row]:
    named, console = f"console, {size:,} tenants", seen.console
    frames, bare_frames = ([pair[at] for pair in seen.frames_ms] for at in (0, 1))
    return [
        Row(
            f"{named}: first paint",
            quantile(frames, 50) / 1000,
            "s",
            len(frames),
            how="from the start of the process to the bytes of its first frame, which says that it is loading; median",
        ),
        Row(
            f"floor: a bare Textual app beside {size:,} tenants: first paint",
            quantile(bare_frames, 50) / 1000,
            "s",
            len(frames),
        ),
        ratio_of_medians(
            f"{named}: first paint against that floor", frames, bare_frames, reference="floor", budget=FIRST_PAINT
        ),
        Row(
            f"{named}: first rows",
            console.rows_ms / 1000,
            "s",
            1,
            how=f"to the list itself, of {nodes:,} nodes too, as the hub puts it together",
        ),
        *_keys(named, console, "from the key's byte to the bytes that move the cursor in the emulator"),
        *_keys(f"floor: a bare Textual app beside {size:,} tenants", seen.bare, "in turns with the console's keys"),
        ratio_at(
            95,
            f"{named}: key to paint against that floor",
            console.keys_ms,
            seen.bare.keys_ms,
            reference="floor",
            budget=KEY,
        ),
        Row(
            f"{named}: bytes for a cursor key, mean",
            sum(console.key_bytes) / len(console.key_bytes),
            "bytes",
            len(console.key_bytes),
            1000.0,
            how="with the keys that scroll half a page and the preview of each row",
        ),
        Row(
            f"{named}: at rest, of a core",
            quantile(console.cores, 50),
            "%",
            round(rest_s),
            how="CPU of its process, figures changing, nobody typing; median of the slices of so many seconds",
        ),
        Row(f"{named}: at rest, to the terminal", console.bytes_s, "bytes/s", round(rest_s)),
        Row(f"{named}: resident memory at the start", console.start_mb, "MB", 1, 120.0),
        Row(
            f"{named}: resident memory after {hours:g} h of updates",
            console.later_mb,
            "MB",
            round(hours * 3600),
            120.0,
            how="the hub's own feed, a second's figures as soon as those of the second before were taken; "
            "meanwhile the nodes report that serve what is shown",
        ),
        *_peer(size, rest_s, seen),
    ]


def _peer(size: int, rest_s: float, seen: Watched) -> list[Row]:
    other, table = f"peer: a Textual DataTable, {size:,} tenants", seen.table
    return [
        Row(f"{other}: first rows", table.rows_ms / 1000, "s", 1, how="the same feed, rows in a plain DataTable"),
        *_keys(other, table),
        Row(
            f"{other}: bytes for a cursor key, mean",
            sum(table.key_bytes) / len(table.key_bytes),
            "bytes",
            len(table.key_bytes),
        ),
        Row(f"{other}: at rest, of a core", quantile(table.cores, 50), "%", round(rest_s)),
        ratio_of_medians(
            f"console, {size:,} tenants: at rest, CPU against that peer",
            seen.console.cores,
            table.cores,
            reference="peer",
            budget=AT_REST if size >= MANY else None,
            how=f"both in the same {SLICES} slices of {rest_s / SLICES:g} s",
        ),
        Row(f"{other}: at rest, to the terminal", table.bytes_s, "bytes/s", round(rest_s)),
        Row(f"{other}: resident memory at the start", table.start_mb, "MB", 1),
    ]


def _keys(named: str, seen: Seen, how: str = "") -> list[Row]:
    n = len(seen.keys_ms)
    return [
        Row(f"{named}: key to paint, p50", quantile(seen.keys_ms, 50), "ms", n),
        Row(f"{named}: key to paint, p95", quantile(seen.keys_ms, 95), "ms", n, how=how),
    ]
