"""The C compiler of this machine: libraries that play faults of the disk and of the driver."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def shared_library(source: Path, out: Path, *flags: str) -> Path:
    """`out`, compiled. Without a compiler the test fails: what it holds was not shown to hold."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.fail(f"no C compiler (cc, gcc or clang) on PATH: {source.name} cannot be compiled; install one")
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", *flags, "-o", str(out), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{source} does not compile:\n{done.stderr}")
    return out
