"""`make bench-collapse`: the experiment, into docs/synthetic.json and the tables of docs/synthetic.md.

It goes on where it stopped, in the folder of `--keep`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from pathlib import Path

from platformdirs import user_cache_path
from tests.collapse.experiment import CELLS, SEED, Laboratory, engine
from tests.collapse.figures import DOCUMENT, RESULTS, written

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Runs the cells that are not done yet, and writes the document when all are."""
    parser = argparse.ArgumentParser(prog="python -m tests.collapse", description=__doc__)
    parser.add_argument("--keep", type=Path, default=Path(user_cache_path("loradeck")) / "collapse")
    parser.add_argument("--cells", type=int, default=len(CELLS), help="so many generations, from the first on")
    asked = parser.parse_args()
    laboratory = Laboratory(asked.keep / str(SEED))
    found = []
    with engine(laboratory.base, laboratory.root / "engine") as address:
        for cell in CELLS[: asked.cells]:
            found.append(laboratory.run(cell, address))
            nats, tokens = (sum(part) for part in zip(*found[-1]["nats"], strict=True))
            print(
                f"{cell[0]} {cell[1]}: {nats / tokens:.3f} nats a token, {found[-1]['passed']} of "
                f"{found[-1]['written']} pass, {found[-1]['variety']}",
                flush=True,
            )
    if len(found) < len(CELLS):
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
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    DOCUMENT.write_text(written(DOCUMENT.read_text(), kept))


if __name__ == "__main__":
    main()
