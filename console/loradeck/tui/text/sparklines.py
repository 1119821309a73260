"""Figures over time as lines of characters. A missing figure leaves a gap: nothing is drawn between two figures."""

from __future__ import annotations

from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], low: float, high: float, width: int) -> str:
    """The newest `width` values as bars between `low` and `high`, the newest at the right; a gap is a space."""
    if width <= 0:
        return ""
    top, shown = len(BARS) - 1, list(values[-width:])
    scale = top / (high - low) if high > low else 0.0
    bars = [" " if value is None else BARS[max(0, min(top, round((value - low) * scale)))] for value in shown]
    return "".join(bars).rjust(width)
