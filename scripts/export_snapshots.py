"""Write what every screen says, as plain text, into tests/unit/tui/snapshots/: for a reviewer, and for a test.

    python scripts/export_snapshots.py [--out DIR]

One file a screen, size and mode. Below the lines of the screen stands what is coloured in it; with NO_COLOR that is
nothing. The real app runs without a terminal on `tests.fakes.console_fleet`, with its clock stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.export_screenshots import in_zone  # noqa: E402
from tests.fakes.console_stage import stage  # noqa: E402

from loradeck.tui.model.state import Screen  # noqa: E402

OUT = ROOT / "tests" / "unit" / "tui" / "snapshots"
REVIEW = "review"
NAMES = (*(screen.value for screen in Screen), REVIEW)
"""The lists, and the page of a gate's sampled answers."""

SIZES = ((80, 24), (160, 48))
MODES = ("dark", "no-color")
CASES = [(size, mode) for size in SIZES for mode in MODES]

_STYLE = re.compile(r"\.[\w-]+-(r\d+) \{ fill: #(\w{6})")
_TEXT = re.compile(r'<text class="[^"]*?-(r\d+)" x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)"[^>]*>([^<]*)</text>')


@contextmanager
def _no_color(on: bool) -> Iterator[None]:
    before = os.environ.pop("NO_COLOR", None)
    if on:
        os.environ["NO_COLOR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("NO_COLOR", None)
        if before is not None:
            os.environ["NO_COLOR"] = before


def file_of(name: str, size: tuple[int, int], mode: str) -> str:
    """The file of one of NAMES."""
    return f"{name}-{size[0]}x{size[1]}-{mode}.txt"


async def draw(size: tuple[int, int], mode: str) -> dict[str, str]:
    """Every screen of one size and mode, by the name of its file."""
    drawn = {}
    with in_zone("UTC"), _no_color(mode == "no-color"):
        async with stage(size=size) as on:
            for screen in Screen:
                on.deck.show_list(screen)
                await on.half_second()
                await on.half_second()
                drawn[file_of(screen.value, size, mode)] = told(on.deck.export_screenshot())
            on.deck.show_list(Screen.GATES)
            await on.press("g", "enter")
            await on.press("+", "n", *"wrong queue", "enter", "k")
            drawn[file_of(REVIEW, size, mode)] = told(on.deck.export_screenshot())
    return drawn


def told(svg: str) -> str:
    """The text of a screenshot, and below it which parts of which line are coloured, grey not counted."""
    colours = {name: value for name, value in _STYLE.findall(svg) if not _is_grey(value)}
    lines: dict[float, str] = {}
    coloured: list[tuple[float, float, str]] = []
    for style, x, y, length, body in _TEXT.findall(svg):
        text = html.unescape(body).replace("\xa0", " ")
        cell = float(length) / max(1, len(text))
        at, row = round(float(x) / cell), float(y)
        lines[row] = lines.get(row, "").ljust(at) + text
        if style in colours and text.strip():
            coloured.append((row, at, f"#{colours[style]} {text.strip()}"))
    rows = sorted(lines)
    screen = [lines[row].rstrip() for row in rows]
    marks = [f"{rows.index(row) + 1:>3} {what}" for row, _, what in sorted(coloured)]
    return "\n".join([*screen, "", "coloured:", *marks]) + "\n"


def _is_grey(colour: str) -> bool:
    parts = [int(colour[at : at + 2], 16) for at in (0, 2, 4)]
    return max(parts) - min(parts) <= 4


async def draw_all() -> dict[str, str]:
    drawn: dict[str, str] = {}
    for size, mode in CASES:
        drawn |= await draw(size, mode)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, text in asyncio.run(draw_all()).items():
        (out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
