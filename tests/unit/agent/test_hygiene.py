"""What the daemon may import: nothing of torch or NVML, and little enough to stay small."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import loradeck_agent

FORBIDDEN = ("torch", "pynvml", "transformers", "peft", "jsonschema", "fastapi", "aiohttp", "numpy", "httpx", "uvloop")


def in_a_process(code: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    document: dict[str, object] = json.loads(done.stdout)
    return document


def test_the_daemon_imports_neither_torch_nor_nvml_nor_a_server() -> None:
    found = in_a_process(
        "import json, sys, loradeck_agent.cli, loradeck_agent.daemon\n"
        f"print(json.dumps({{'found': [m for m in {FORBIDDEN!r} if m in sys.modules]}}))"
    )
    assert found == {"found": []}


def test_the_daemons_imports_leave_room_in_its_memory_budget() -> None:
    found = in_a_process(
        "import json, loradeck_agent.cli, loradeck_agent.daemon\n"
        "kb = next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS'))\n"
        "print(json.dumps({'mb': kb / 1024}))"
    )
    assert isinstance(found["mb"], float)
    assert found["mb"] < 48, "the budget is 50 MB with everything running"


def test_the_version_is_the_distributions() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert loradeck_agent.__version__ == project["project"]["version"]
