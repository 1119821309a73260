"""What must start fast and run anywhere imports no toolkit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import loradeck.tui

SCREEN = {"acts", "app", "driver", "moving", "typed"}
"""The app itself, by what it does; everything else is told what is on the screen and knows no toolkit."""

FOLDER = Path(loradeck.tui.__file__).parent
PURE = sorted({path.stem for path in FOLDER.glob("*.py")} - SCREEN - {"__init__"})


@pytest.mark.parametrize("module", ["state", "dispatch"])
def test_state_and_dispatch_import_no_textual_http_or_server(module: str) -> None:
    code = (
        f"import sys, loradeck.tui.{module}\n"
        "heavy = {'textual', 'httpx', 'websockets', 'fastapi', 'torch', 'sqlite3', 'aiohttp'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "ours = [m for m in sys.modules if m.startswith(('loradeck.hub', 'loradeck.store', 'loradeck.rules'))]\n"
        "assert not ours, ours\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_everything_but_the_screens_is_free_of_textual() -> None:
    imports = "; ".join(f"import loradeck.tui.{module}" for module in PURE)
    code = f"import sys; {imports}; assert 'textual' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
