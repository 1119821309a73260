"""A measurement of an executor in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
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
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def environment() -> dict[str, str]:
    """Of a process that imports the tests and the examples."""
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}"}


def copy_synced(source: Path, target: Path) -> None:
    """cp + fsync of a folder of files."""
    shutil.copytree(source, target)
    for path in (*target.iterdir(), target):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def version(package: str) -> str:
    return importlib.metadata.version(package)
