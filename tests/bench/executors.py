"""A measurement of an executor in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def child(kind: str, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """What `tests.bench.executor_child` measured of a task. Raises AssertionError when it came to nothing."""
    (folder / "task.json").write_text(json.dumps(task))
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.executor_child", kind, str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def cores() -> int:
    return len(os.sched_getaffinity(0))


def version(package: str) -> str:
    return importlib.metadata.version(package)
