"""Help for where you are."""

from __future__ import annotations

from functools import partial

from loradeck.tui.lines.help_text import help_lines
from loradeck.tui.model.state import Screen as Which
from loradeck.tui.screens.page import Page


class HelpScreen(Page):
    def __init__(self, which: Which) -> None:
        super().__init__("help", partial(help_lines, which), leaves="?")
