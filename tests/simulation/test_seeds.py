"""Seeds of the simulation. Each runs in a process of its own, where the world is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

CHUNK = 100
CHUNKS = 5


def simulate(*arguments: str, status: int = 0) -> dict[str, Any]:
    """What `python -m tests.simulation --json` says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--json", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_invariant_holds(chunk: int) -> None:
    found = simulate("--seeds", f"{chunk * CHUNK}:{(chunk + 1) * CHUNK}")
    assert found["seeds"] == CHUNK
    assert found["counts"]["moves acknowledged"] > CHUNK
    assert found["counts"]["answers"] > 100 * CHUNK


def test_a_seed_is_the_same_run_every_time() -> None:
    alone, after_others = simulate("--seeds", "3:5"), simulate("--seeds", "0:5")
    assert alone["digests"]["4"] == after_others["digests"]["4"]
    assert alone["digests"]["3"] == after_others["digests"]["3"] != alone["digests"]["4"]
