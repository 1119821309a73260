"""`make bench-detect`: how soon bad releases are detected. `--long BLOCKS`: false flags, resumed where they stopped.

Results are kept in docs/detection.json, and docs/detection.md is written from them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.detection.delays import FLEET, TRAFFIC, budget, burn_rate, delays, percentile
from tests.detection.false_flags import DAY_S, KINDS, TENANTS, block

ROOT = Path(__file__).parents[2]
RESULTS, DOCUMENT = ROOT / "docs" / "detection.json", ROOT / "docs" / "detection.md"
BEGIN, END = "<!-- written by make bench-detect -->", "<!-- /written -->"
RUNS, BURN_RUNS = 100, 10


def main() -> None:
    """Measures what is asked for, and writes it down."""
    parser = argparse.ArgumentParser(prog="python -m tests.detection", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="of each kind of traffic")
    parser.add_argument("--long", type=int, metavar="BLOCKS", help="false flags until there are so many blocks a kind")
    parser.add_argument("--minutes", type=float, default=50, help="begin no block after so many (default 50)")
    asked = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"delays": [], "blocks": []}
    if asked.long is None:
        kept["delays"] = [measure(traffic, asked.runs) for traffic in TRAFFIC]
        write(kept)
        return
    begun = time.monotonic()
    for seed in range(asked.long):
        for kind in KINDS:
            if any((b["kind"], b["seed"]) == (kind, seed) for b in kept["blocks"]):
                continue
            if time.monotonic() - begun > 60 * asked.minutes:
                return
            flagged, most = block(kind, seed)
            kept["blocks"].append({"kind": kind, "seed": seed, "flagged": flagged, "most": round(most, 6), **_stamp()})
            print(f"{kind}, block {seed}: {flagged} of {TENANTS} flagged, most evidence {most:.1f} nats", flush=True)
            write(kept)


def measure(traffic: Any, runs: int) -> dict[str, Any]:
    """The delays of one kind of traffic."""
    both = [delays(traffic, seed) for seed in range(runs)]
    pages = [burn_rate(traffic, seed) for seed in range(BURN_RUNS)]
    row: dict[str, Any] = {"traffic": str(traffic), "runs": runs, **_stamp()}
    for name, values in zip(("flag", "rollback"), zip(*both, strict=True), strict=True):
        row[name] = [percentile(values, 0.5), percentile(values, 0.95)]
    row["burn_rate"] = [percentile(pages, 0.5), percentile(pages, 0.95)]
    row["budget"] = budget(traffic)
    print(row, flush=True)
    return row


def _stamp() -> dict[str, str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {"commit": commit.stdout.strip()}


def write(kept: dict[str, Any]) -> None:
    """Writes the results and the tables in the document."""
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    lines = ["| traffic | flag p50 / p95, s | rollback p50 / p95, s | allowed (p95) | burn-rate page p50, s |"]
    lines += ["|---|---|---|---|---|"]
    for row in kept["delays"]:
        budget = row["budget"]
        missed = budget and (row["flag"][1] > budget[0] or row["rollback"][1] > budget[1])
        allowed = f"{budget[0]} and {budget[1]}" + (" MISSED" if missed else "") if budget else "-"
        lines.append(
            f"| {row['traffic']} | {row['flag'][0]} / {row['flag'][1]} | {row['rollback'][0]} / {row['rollback'][1]} "
            f"| {allowed} | {row['burn_rate'][0]} |"
        )
    lines += ["", "| share of bad answers | tenant-years | flagged | most evidence, nats |", "|---|---|---|---|"]
    for kind in KINDS:
        blocks = [b for b in kept["blocks"] if b["kind"] == kind]
        years = len(blocks) * TENANTS * DAY_S / (365.25 * DAY_S)
        most = max((b["most"] for b in blocks), default=0.0)
        lines.append(f"| {kind} | {years:.0f} | {sum(b['flagged'] for b in blocks)} | {most:.1f} |")
    commits = ", ".join(sorted({row["commit"] for row in (*kept["delays"], *kept["blocks"])}))
    lines += ["", f"At {commits}; a fleet of {FLEET:,} tenants. Seeds count from 0."]
    text = DOCUMENT.read_text()
    head, tail = text[: text.index(BEGIN)], text[text.index(END) :]
    DOCUMENT.write_text(f"{head}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{tail}")


if __name__ == "__main__":
    main()
