"""What set-up and installs download, have on disk and take, with each build of torch: docs/sizes.json and the README.

    python -m scripts.installed_sizes measure cpu   # or cuda: the last commit, an empty HOME; 17 GB in /tmp
    python -m scripts.installed_sizes write         # the README anew, from what docs/sizes.json has

Sizes are the sums of the lengths of all files, in millions of bytes. A build that pip cannot get where this runs keeps
the figures that it had, with their date.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.torch_build import BUILDS, PYTORCH, ROOT, SIZES, Index

README = ROOT / "README.md"
SET_UP = ("<!-- set-up: written by python -m scripts.installed_sizes -->", "<!-- /set-up -->")
INSTALLED = ("<!-- sizes: written by python -m scripts.installed_sizes -->", "<!-- /sizes -->")

INSTALLS = {
    "": "runs the console and the `loradeck` command",
    "hub,agent": "runs the hub, or the agent of a GPU host whose vLLM is already there",
    "hub,agent,train": "trains, evaluates or merges adapters, or uses the engine that comes with Loradeck",
    "all": "does all of it, with [scans of training data and signatures](docs/data.md)",
}
"""Extras that a machine is installed with, in the order of growth, and what it does then."""

Record = dict[str, Any]
"""What was measured with one build."""


# ---- measuring -----------------------------------------------------------------------------------------------------


def length(folder: Path) -> int:
    """The bytes of all files below a folder, each file once; links count nothing."""
    files = [path.lstat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum({(file.st_dev, file.st_ino): file.st_size for file in files}.values())


def torch_in(python: Path) -> tuple[str, str]:
    """The version of torch that an environment has, and its build: "cpu" or "cuda"."""
    words = [python, "-c", "import torch; print(torch.__version__, 'cuda' if torch.version.cuda else 'cpu')"]
    version, build = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return version, build


def steps(printed: str) -> dict[str, int]:
    """The seconds that set-up printed, in all and by step.

    Raises:
        ValueError: it printed none.
    """
    times = re.search(r"^\.venv took (\d+) s: (.+)$", printed, re.MULTILINE)
    if times is None:
        raise ValueError(f"set-up did not say what it took: {printed}")
    pairs = (one.rsplit(" ", 1) for one in times[2].split(", "))
    return {"all": int(times[1])} | {name: int(seconds) for name, seconds in pairs}


def measure(build: str, folder: Path) -> Record | None:
    """Sets up and installs with a build of torch in an empty folder; None where pip got another build."""
    clone, home, environment = folder / "clone", folder / "home", folder / "environment"
    home.mkdir()
    kept = {name: text for name, text in os.environ.items() if not name.startswith("XDG_")}
    variables = kept | {"HOME": str(home), "TORCH": build}

    def run(*words: str | Path, is_read: bool = False) -> str:
        stdout = subprocess.PIPE if is_read else None
        return subprocess.run(words, check=True, env=variables, cwd=folder, text=True, stdout=stdout).stdout

    run("git", "clone", "--quiet", ROOT, clone)
    load = os.getloadavg()[0]
    printed = run("make", "-C", clone, "setup", f"PYTHON={sys.executable}", is_read=True)
    sys.stdout.write(printed)
    python = clone / ".venv" / "bin" / "python"
    version, got = torch_in(python)
    if got != build:
        return None
    index = Index(os.environ.get("TORCH_INDEX") or PYTORCH)
    pages = [] if build == "cuda" or index.silence(5) else ["--find-links", index.page("torch")]
    listed = run(python, "-m", "pip", "list", "--format=freeze", "--exclude-editable", is_read=True).split()
    run(python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder / "files", *pages, *listed)

    run(sys.executable, "-m", "venv", environment)
    installed = {}
    for extras in INSTALLS:
        if "train" in extras:
            run(environment / "bin" / "python", clone / "scripts" / "torch_build.py", "install")
        run(
            environment / "bin" / "python", "-m", "pip", "install", "--quiet", f"{clone}[{extras}]" if extras else clone
        )
        installed[extras] = length(environment)
    return {
        "date": f"{datetime.now(UTC).date()}",
        "torch": version,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(load, 1),
        "download": length(folder / "files"),
        "disk": length(clone / ".venv"),
        "seconds": steps(printed),
        "installed": installed,
    }


# ---- writing -------------------------------------------------------------------------------------------------------


def megabytes(count: int) -> str:
    """Bytes as the README gives them."""
    return f"{count / 1e6:,.0f} MB"


def _cells(records: Mapping[str, Record], *path: str) -> list[Any]:
    values = []
    for build in BUILDS:
        value: Any = records.get(build, {})
        for name in path:
            value = value.get(name, {})
        values.append(value)
    return values


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _sizes(records: Mapping[str, Record], *path: str) -> list[str]:
    return [megabytes(value) if value else "not measured" for value in _cells(records, *path)]


HEADS = [f"PyTorch for {name}" for name in BUILDS.values()]


def set_up(records: Mapping[str, Record]) -> str:
    """What set-up downloads, has on disk and takes, as a table."""
    seconds = [
        f"{record['seconds']['all']} s, {record['cores']} cores with a load of {record['load']} before"
        if record
        else "not measured"
        for record in _cells(records)
    ]
    lines = [
        _row("set-up", *HEADS),
        "|---|---|---|",
        _row("to download, with a small model", *_sizes(records, "download")),
        _row("on disk, in `.venv`", *_sizes(records, "disk")),
        _row("took", *seconds),
    ]
    return "\n".join(lines)


def installs(records: Mapping[str, Record]) -> str:
    """What a new virtual environment has with each choice of extras, as a table, and when that was measured."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wheel = f"dist/{project['name']}-{project['version']}-py3-none-any.whl"
    lines = [_row("what the machine does", "install", *(f"with {head}" for head in HEADS)), "|---|---|---|---|"]
    for extras, what in INSTALLS.items():
        command = f"`pip install '{wheel}[{extras}]'`" if extras else f"`pip install {wheel}`"
        lines.append(_row(what, command, *_sizes(records, "installed", extras)))
    builds = [f"torch {record['torch']} on {record['date']}" for record in records.values()]
    return "\n".join([*lines, "", f"Measured with {' and '.join(builds)}."])


def with_figures(readme: str, records: Mapping[str, Record]) -> str:
    """The README with both tables written anew.

    Raises:
        ValueError: it lacks a marker.
    """
    for (begin, end), table in ((SET_UP, set_up(records)), (INSTALLED, installs(records))):
        before, marker, rest = readme.partition(begin)
        _, ended, after = rest.partition(end)
        if not marker or not ended:
            raise ValueError(f"the README needs {begin} and {end}")
        readme = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return readme


def write(records: Mapping[str, Record]) -> None:
    """Writes the record and the README."""
    SIZES.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    README.write_text(with_figures(README.read_text(encoding="utf-8"), records), encoding="utf-8")


def main() -> None:
    """Runs `measure` or `write`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("measure").add_argument("build", choices=BUILDS)
    actions.add_parser("write")
    arguments = parser.parse_args()
    records = json.loads(SIZES.read_text(encoding="utf-8"))
    if arguments.action == "measure":
        with tempfile.TemporaryDirectory() as folder:
            record = measure(arguments.build, Path(folder))
        if record is None:
            raise SystemExit(f"not measured: torch for {BUILDS[arguments.build]}, which pip did not get here")
        records[arguments.build] = record
    write({build: records[build] for build in BUILDS if build in records})


if __name__ == "__main__":
    main()
