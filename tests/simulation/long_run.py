"""The long run: many thousands of seeds in parts, each written down when it has ended, so that it goes on where it was.

docs/simulation.json holds the parts; the table in docs/simulation.md between its two marks is made from them.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.simulation.faults import draw
from tests.simulation.run import Run, prepare

DOCS = Path(__file__).parents[2] / "docs"
RECORD = DOCS / "simulation.json"
PAGE = DOCS / "simulation.md"
BEGIN, END = "<!-- written by python -m tests.simulation --long -->", "<!-- /written -->"
PART = 250
"""Seeds after which what was run is written down."""


def run(total: int) -> int:
    """Runs the seeds that no part has yet, up to `total`. Returns the exit status."""
    prepare()
    record: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {"parts": []}
    done = max((part["last"] for part in record["parts"]), default=0)
    while done < total:
        last = min(total, done + PART)
        _add(record["parts"], _part(done, last))
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        write_table(record)
        print(
            f"{last} of {total} seeds, {sum(len(part['found']) for part in record['parts'])} with a violation",
            flush=True,
        )
        done = last
    return 1 if any(part["found"] for part in record["parts"]) else 0


def _add(parts: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Adds a part, to the one before where that is of the same commit."""
    before = parts[-1] if parts else None
    if before is None or before["commit"] != part["commit"]:
        parts.append(part)
        return
    counts = Counter(before["counts"]) + Counter(part["counts"])
    before |= {"last": part["last"], "cpu_s": before["cpu_s"] + part["cpu_s"], "counts": dict(sorted(counts.items()))}
    before["found"] |= part["found"]


def _part(first: int, last: int) -> dict[str, Any]:
    began, counts = time.process_time(), Counter[str]()
    found: dict[str, str] = {}
    for seed in range(first, last):
        outcome = Run(draw(seed)).go()
        counts += outcome.counts
        counts["simulated seconds"] += round(outcome.simulated_s)
        if outcome.violation:
            found[str(seed)] = outcome.violation[-400:]
    return {
        "first": first,
        "last": last,
        "commit": _commit(),
        "cpu_s": round(time.process_time() - began),
        "found": found,
        "counts": dict(sorted(counts.items())),
    }


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=DOCS)
    return done.stdout.strip()


def table(record: dict[str, Any]) -> str:
    """The parts as the page shows them."""
    rows = [
        "| seeds | commit | moves acknowledged | answers | faults | simulated | CPU | violations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in record["parts"]:
        counts = part["counts"]
        faults = sum(n for name, n in counts.items() if name.startswith("fault "))
        hours = counts["simulated seconds"] / 3600
        found = ", ".join(part["found"]) or "none"
        rows.append(
            f"| {part['first']}:{part['last']} | {part['commit']} | {counts['moves acknowledged']:,} "
            f"| {counts['answers']:,} | {faults:,} | {hours:.1f} h | {part['cpu_s']} s | {found} |"
        )
    return "\n".join(rows)


def write_table(record: dict[str, Any]) -> None:
    """Puts the parts into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n" + table(record) + "\n" + END + after)
