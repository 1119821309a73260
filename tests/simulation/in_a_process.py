"""Seeds of the simulation in processes of their own, where the world is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def simulate(*arguments: str, status: int = 0) -> dict[str, Any]:
    """Runs `python -m tests.simulation --json` in a process of its own, and returns the document that it prints."""
    return simulate_beside([arguments], status=status)[0]


def simulate_beside(runs: Sequence[Sequence[str]], *, status: int = 0) -> list[dict[str, Any]]:
    """Does that for several runs at once, so that more than one core is used."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.simulation", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        for arguments in runs
    ]
    said = [process.communicate() for process in processes]
    for process, (out, error) in zip(processes, said, strict=True):
        assert process.returncode == status, out + error
    return [json.loads(out) for out, _ in said]
