"""`make bench-collapse`: the experiment, into docs/synthetic.json and the table of docs/synthetic.md.

It goes on where it stopped, in the folder of `--keep`, and writes the document after each generation.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from tests.collapse.experiment import ARMS, CELLS, SEED, Laboratory, engine
from tests.collapse.figures import DOCUMENT, RESULTS, level, written

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Runs the cells that are not done yet."""
    parser = argparse.ArgumentParser(prog="python -m tests.collapse", description=__doc__)
    parser.add_argument("--keep", type=Path, default=Path(user_cache_path("loradeck")) / "collapse")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="so many generations, from the first on")
    asked = parser.parse_args()
    laboratory = Laboratory(asked.keep / str(SEED))
    cells, found = CELLS[: asked.cells], []
    missing = any(not laboratory.has(cell) for cell in cells)
    with engine(laboratory.base, laboratory.root / "engine") if missing else nullcontext(Path()) as address:
        for cell in cells:
            found.append(laboratory.run(cell, address))
            of = found[-1]
            counts = f"{of['passed']} of {of['written']} pass, {of['variety']}"
            print(f"{cell[0]} {cell[1]}: {level(of):.3f} nats a token, {counts}", flush=True)
            if cell[0] == ARMS[-1]:  # a generation of all arms
                keep(laboratory, found)


def keep(laboratory: Laboratory, found: list[dict[str, Any]]) -> None:
    """Writes what there is so far into the document, once it is as much as stands there."""
    if len(found) < len(json.loads(RESULTS.read_text())["cells"]):
        return
    commit = subprocess.run(["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    kept = {
        "commit": commit.stdout.strip(),
        "command": "make bench-collapse",
        "seed": SEED,
        "python": platform.python_version(),
        "rows": laboratory.material.digest,
        "cells": found,
    }
    RESULTS.write_text(json.dumps(kept, separators=(",", ":")) + "\n")
    DOCUMENT.write_text(written(DOCUMENT.read_text(), kept))


if __name__ == "__main__":
    main()
