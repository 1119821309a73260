"""Figures as characters: bars over time on one line, and a line plot in braille, two by four dots a cell.

A missing figure leaves a gap: nothing is drawn between its neighbours.
"""

import math
from collections.abc import Mapping, Sequence

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a cell's dots: left and right column, from top to bottom."""

BARS = "▁▂▃▄▅▆▇█"

GUTTER = 9
"""Cells for the labels at the left."""


def sparkline(values: Sequence[float | None], low: float, high: float, width: int) -> str:
    """The newest `width` values as bars between `low` and `high`, the newest at the right; a gap is a space."""
    if width <= 0:
        return ""
    top, shown = len(BARS) - 1, list(values[-width:])
    scale = top / (high - low) if high > low else 0.0
    bars = [" " if value is None else BARS[max(0, min(top, round((value - low) * scale)))] for value in shown]
    return "".join(bars).rjust(width)


def plot(points: Mapping[int, float], first: int, last: int, width: int, height: int) -> list[str]:
    """A figure by step, over the steps `first` to `last`; the highest and the lowest value stand at the left.

    Only steps that follow each other are joined. Values that are not finite have no dot.
    """
    shown = {step: value for step, value in points.items() if first <= step <= last and math.isfinite(value)}
    if not shown or height < 2 or width <= GUTTER + 2:
        return [""] * height
    cells = width - GUTTER
    low, high = min(shown.values()), max(shown.values())
    grid = [bytearray(cells) for _ in range(height)]
    wide, tall, across, span = 2 * cells - 1, 4 * height - 1, max(1, last - first), (high - low) or 1.0
    before: tuple[int, int, int] | None = None
    for step in sorted(shown):
        x = round((step - first) / across * wide)
        y = round((high - shown[step]) / span * tall) if high > low else tall // 2
        joined = before is not None and before[0] == step - 1
        for at_x, at_y in _line(before[1], before[2], x, y) if joined and before is not None else ((x, y),):
            grid[at_y // 4][at_x // 2] |= _DOTS[at_x % 2][at_y % 4]
        before = (step, x, y)
    labels = {0: f"{high:.4g}", height - 1: f"{low:.4g}" if high > low else ""}
    return [
        f"{labels.get(row, ''):>{GUTTER - 1}} " + "".join(chr(0x2800 + bits) if bits else " " for bits in line)
        for row, line in enumerate(grid)
    ]


def _line(x0: int, y0: int, x1: int, y1: int) -> list[tuple[int, int]]:
    """Dots from one to another."""
    steps = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [(round(x0 + (x1 - x0) * i / steps), round(y0 + (y1 - y0) * i / steps)) for i in range(steps + 1)]
