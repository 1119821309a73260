"""Style names to terminal styles: the sixteen colours of the terminal's own palette, and its own background.

Colour never carries a meaning alone; every style here stands beside a word or a sign with that meaning.
"""

from rich.style import Style

THEME = "ansi-dark"
"""Textual's theme that leaves the palette to the terminal."""

STYLES: dict[str, Style] = {
    "": Style(),
    "bold": Style(bold=True),
    "dim": Style(dim=True),
    "label": Style(color="cyan"),
    "head": Style(bold=True, underline=True),
    "rule": Style(color="blue", bold=True),
    "bad": Style(color="red", bold=True),
    "warn": Style(color="yellow"),
    "good": Style(color="green"),
    "armed": Style(color="red", bold=True, reverse=True),
    "production": Style(color="red", bold=True, reverse=True),
    "bar": Style(reverse=True),
    "question": Style(color="yellow", bold=True),
    "key": Style(bold=True),
}

CURSOR = Style(reverse=True)
"""Laid over the selected row."""

OLD = Style(dim=True)
"""Laid over rows whose figures are not live."""
