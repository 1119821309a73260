"""The version before, as programs to run: a wheel of the commit that `commit` names, on the packages of this checkout.

`commit` is the last one that speaks the version of the wire before this checkout's. Raise it when the version goes up.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
COMMIT = (Path(__file__).parent / "commit").read_text().strip()

PROGRAM = """#!/bin/sh
PYTHONPATH={packages} exec {python} -c 'import sys; from {package}.cli import main; sys.exit(main())' "$@"
"""


@dataclass(frozen=True)
class Earlier:
    """Commands of the version before."""

    hub: Path
    agent: Path


def build(folder: Path) -> Earlier:
    """Builds the wheel of the version before and lays out its commands.

    Raises:
        RuntimeError: this checkout has no history, or not as far back.
    """
    source, packages = folder / "source", folder / "packages"
    archived = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=False)
    if archived.returncode != 0:
        raise RuntimeError(f"commit {COMMIT[:12]} is not in this checkout's history: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as tar:
        tar.extractall(source, filter="data")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("loradeck-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return Earlier(_program(folder, "loradeck"), _program(folder, "loradeck_agent"))


def _program(folder: Path, package: str) -> Path:
    path = folder / package.replace("_", "-")
    path.write_text(PROGRAM.format(packages=folder / "packages", python=sys.executable, package=package))
    path.chmod(0o700)
    return path
