"""Help for where you are."""

from __future__ import annotations

from functools import partial

from loradeck.tui.helptext import help_lines
from loradeck.tui.screens.page import Page
from loradeck.tui.state import Screen as Which


class HelpScreen(Page):
    def __init__(self, which: Which) -> None:
        super().__init__("help", partial(help_lines, which), leaves="?")
