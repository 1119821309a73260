"""What must start fast and run anywhere imports no toolkit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import loradeck.tui

SCREEN = {"actions.key_actions", "actions.moves", "actions.typed_text", "actions.window", "terminal.driver"}
"""What drives Textual itself, beside `app`, `screens` and `widgets`. Everything else knows no toolkit."""

FOLDER = Path(loradeck.tui.__file__).parent
ROOMS = ("actions", "key_checks", "hub", "keys", "lines", "model", "terminal", "text")
PURE = sorted({f"{room}.{path.stem}" for room in ROOMS for path in (FOLDER / room).glob("[!_]*.py")} - SCREEN)


@pytest.mark.parametrize("module", ["model.state", "key_checks.decide"])
def test_state_and_dispatch_import_no_textual_http_or_server(module: str) -> None:
    code = (
        f"import sys, loradeck.tui.{module}\n"
        "heavy = {'textual', 'httpx', 'websockets', 'fastapi', 'torch', 'sqlite3', 'aiohttp'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "ours = [m for m in sys.modules if m.startswith(('loradeck.hub', 'loradeck.store'))]\n"
        "assert not ours, ours\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_everything_but_the_screens_is_free_of_textual() -> None:
    imports = "; ".join(f"import loradeck.tui.{module}" for module in PURE)
    code = f"import sys; {imports}; assert 'textual' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


FIRST_FRAME = """
import asyncio, sys
from pathlib import Path
from loradeck.client.config import Context
from loradeck.tui.app import Deck
from loradeck.tui.hub.connection import HubConnection
from loradeck.tui.model.state import ConsoleState

class Watched(Deck):
    loaded = None

    def post_display_hook(self):
        super().post_display_hook()
        if self.loaded is None and self.is_running:
            self.loaded, self.said = set(sys.modules), self.front.header.text

async def main():
    deck = Watched(HubConnection(Context(name="none", socket=Path("/nowhere/hub.sock"))), ConsoleState(context="none"))
    async with deck.run_test(size=(100, 30)) as pilot:
        while "loradeck.client.api" not in sys.modules:
            await pilot.pause(0.01)
    return deck

deck = asyncio.run(main())
assert "CONNECTING" in deck.said, deck.said
print(*sorted(deck.loaded))
"""
"""The console on a hub that is not there, until it asks for it; prints what was imported at its first frame."""


def test_what_speaks_to_a_hub_is_imported_behind_the_first_frame() -> None:
    ran = subprocess.run([sys.executable, "-c", FIRST_FRAME], check=True, timeout=60, capture_output=True, text=True)
    loaded = set(ran.stdout.split())
    assert "loradeck.tui.screens.tenants" in loaded
    late = {"httpx", "httpcore", "http.client", "websockets.asyncio.client", "loradeck.client.api"}
    never = {"pygments", "rich.progress", "plotext", "markdown_it", "fastapi", "sqlite3"}
    assert not loaded & (late | never)
