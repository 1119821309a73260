"""Seeds of the simulation in a process of their own, where the world is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def simulate(*arguments: str, status: int = 0) -> dict[str, Any]:
    """Runs `python -m tests.simulation --json` in a process of its own, and returns the document that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--json", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
