"""`make bench-detect`: how soon bad and slow releases are detected. `--generated`: on traffic of published shapes.

`--long PARTS`: false flags, part by part. `--fleet PARTS`: likewise, on traffic of published shapes.

Results are kept in docs/detection.json, and docs/detection.md is written from them. What is run in parts goes on where
it stopped: each part is written when it is over.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.detection import candidates, fleet, generated
from tests.detection.delays import FLEET, RATES, TRAFFIC, budget, burn_rate, delays, percentile, slow_delay
from tests.detection.false_flags import KINDS, PART_S, TENANTS, part

ROOT = Path(__file__).parents[2]
RESULTS, DOCUMENT = ROOT / "docs" / "detection.json", ROOT / "docs" / "detection.md"
BEGIN, END = "<!-- written by make bench-detect -->", "<!-- /written -->"
CANDIDATES = "<!-- written by make bench-detect ARGS=--candidates -->"
GENERATED = "<!-- written by make bench-detect ARGS=--generated -->"
FLEET_FLAGS = "<!-- written by make fleet-flags -->"
RUNS, BURN_RUNS = 100, 10


def main() -> None:
    """Measures what is asked for, and writes it down."""
    parser = argparse.ArgumentParser(prog="python -m tests.detection", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="of each kind of traffic")
    parser.add_argument("--slow", action="store_true", help="only how soon slow releases are detected")
    parser.add_argument(
        "--candidates", action="store_true", help="only candidates that guard takes out, good ones and bad ones"
    )
    parser.add_argument(
        "--generated", action="store_true", help="only delays on traffic of published shapes, row by row"
    )
    parser.add_argument("--long", type=int, metavar="PARTS", help="false flags until there are so many parts of a kind")
    parser.add_argument("--fleet", type=int, metavar="PARTS", help="likewise on traffic of published shapes")
    parser.add_argument("--minutes", type=float, default=50, help="begin no part after so many (default 50)")
    asked = parser.parse_args()
    kept, begun = json.loads(RESULTS.read_text()), time.monotonic()

    def in_time() -> bool:
        return time.monotonic() - begun < 60 * asked.minutes

    if asked.long is not None:
        go_on(kept["parts"], asked.long, in_time, lambda: write(kept))
        return
    if asked.fleet is not None:
        fleet_goes_on(kept.setdefault("fleet", {"parts": 0}), asked.fleet, in_time, lambda: write(kept))
        return
    if asked.candidates:
        kept["candidates"] = [measure_candidates(kind) for kind in candidates.KINDS]
        write(kept)
        return
    if asked.generated:
        for case in generated.CASES:
            kept["generated"] = measure_generated(kept.get("generated", []), case)
            write(kept)
        return
    if not asked.slow:
        kept["delays"] = [measure(traffic, asked.runs) for traffic in TRAFFIC]
    kept["slow"] = [measure_slow(rate, asked.runs) for rate in RATES]
    write(kept)


def go_on(done: dict[str, dict[str, Any]], parts: int, in_time: Callable[[], bool], save: Callable[[], None]) -> None:
    """Simulates the parts of each kind that are not done yet, all kinds in turn, while there is time.

    `done`: kind -> how many parts there were, flags, the most evidence and the commits; `save` is called after each.
    """
    commit = _stamp()["commit"]
    for number in range(parts):
        for kind in KINDS:
            of = done.setdefault(kind, {"parts": 0, "flagged": 0, "most": 0.0, "commits": []})
            if of["parts"] > number:
                continue
            if not in_time():
                return
            flagged, most = part(kind, number)
            of.update(parts=number + 1, flagged=of["flagged"] + flagged, most=max(of["most"], round(most, 6)))
            of["commits"] = sorted({*of["commits"], commit})
            print(f"{kind}, part {number}: {flagged} of {TENANTS} flagged, most evidence {most:.1f} nats", flush=True)
            save()


def fleet_goes_on(done: dict[str, Any], parts: int, in_time: Callable[[], bool], save: Callable[[], None]) -> None:
    """Simulates the parts of the fleet that are not done yet, while there is time.

    `done`: how many parts there were, their flags by what they were, and the commits; `save` is called after each.
    """
    commit = _stamp()["commit"]
    while done["parts"] < parts and in_time():
        found = fleet.part(done["parts"])
        done["parts"] += 1
        for name in fleet.KINDS:
            done[name] = done.get(name, 0) + found.get(name, 0)
        done["commits"] = sorted({*done.get("commits", []), commit})
        print(f"part {done['parts'] - 1}: {found}", flush=True)
        save()


def measure_generated(rows: list[dict[str, Any]], case: generated.Case) -> list[dict[str, Any]]:
    """The rows with that of a case, unless it was measured at this commit already."""
    known = {row["traffic"]: row for row in rows}
    if known.get(str(case), {}).get("commit") != _stamp()["commit"]:
        known[str(case)] = generated.measured(case, generated.runs_of(case)) | _stamp()
        print(known[str(case)], flush=True)
    return [known[str(one)] for one in generated.CASES if str(one) in known]


def measure_candidates(kind: candidates.Kind) -> dict[str, Any]:
    """The row of one kind of candidate."""
    row = candidates.measured(kind, candidates.RUNS if kind.share is None else candidates.RUNS_OF_BAD) | _stamp()
    print(row, flush=True)
    return row


def measure_slow(rate: int, runs: int) -> dict[str, Any]:
    """The delays to SLOW at a rate of streamed answers a second."""
    flags = [slow_delay(rate, seed) for seed in range(runs)]
    row = {"traffic": f"{rate}/s, first tokens after five times as long", "runs": runs, **_stamp()}
    return row | {"flag": [percentile(flags, 0.5), percentile(flags, 0.95)]}


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
    new = RESULTS.with_suffix(".new")
    new.write_text(json.dumps(kept, indent=1) + "\n")
    new.replace(RESULTS)  # whoever stops it never leaves half a file
    text = DOCUMENT.read_text()
    tables = {
        BEGIN: first_tables(kept),
        CANDIDATES: candidates_table(kept.get("candidates", [])),
        GENERATED: generated_table(kept.get("generated", [])),
        FLEET_FLAGS: fleet_table(kept.get("fleet", {"parts": 0})),
    }
    for begin, lines in tables.items():
        head, rest = text.split(begin)
        text = f"{head}{begin}\n\n" + "\n".join(lines) + f"\n\n{rest[rest.index(END) :]}"
    DOCUMENT.write_text(text)


def generated_table(rows: list[dict[str, Any]]) -> list[str]:
    """The table of delays on traffic of published shapes."""
    lines = ["| traffic | runs | flag p50 / p95, s | by steps and probe p50 / p95, s | bound, s (design effect) |"]
    lines[0] += " allowed (p95) | cause 10 s later | CUSUM p50 / p95, s | burn-rate page p50, s |"
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        first = min((row[name][1] for name in ("flag", "steps") if row[name][1] is not None), default=math.inf)
        late = row["allowed"] is not None and first > row["allowed"]
        bound = "-" if row["bound"] is None else f"{row['bound']:,}"
        allowed = "-" if row["allowed"] is None else f"{row['allowed']}" + (" MISSED" if late else "")
        causes = ", ".join(f"{cause} {n}" for cause, n in row["causes"].items()) or "-"
        lines.append(
            f"| {row['traffic']} | {row['runs']} | {_both(row['flag'])} "
            f"| {_both(row['steps']) if row['hangs'] else '-'} | {bound} ({row['design']}) | {allowed} "
            f"| {causes} | {_both(row['cusum'])} | {_delay(row['burn_rate'][0])} |"
        )
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return [*lines, "", f"At {commits}. Seeds count from 0."]


def candidates_table(rows: list[dict[str, Any]]) -> list[str]:
    """The table of candidates that guard takes out."""
    lines = [
        "| candidate, at half of the callers | runs | taken out by requests alone | taken out |",
        "|---|---|---|---|",
    ]
    for row in rows:
        cells = []
        for name in candidates.Outcome._fields:
            delays = row.get(f"{name}_s")
            cells.append(f"{row[name]:,}" + (f", p50 / p95 {_both(delays)} s" if delays else ""))
        lines.append(f"| {row['candidate']} | {row['runs']:,} | {' | '.join(cells)} |")
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return [*lines, "", f"At {commits}. Seeds count from 0."]


def fleet_table(done: dict[str, Any]) -> list[str]:
    """The table of false flags on traffic of published shapes."""
    weeks = done["parts"] / fleet.PARTS_A_WEEK
    lines = ["| flags | in all | a fleet-week | upper 95 % bound a fleet-week |", "|---|---|---|---|"]
    if weeks:
        for name, what in fleet.KINDS.items():
            n = done[name]
            lines.append(f"| {what} | {n} | {n / weeks:,.0f} | {fleet.upper_bound(n, weeks):,.0f} |")
    run = f"{done['parts']:,} parts of {3 * fleet.PARTS_A_WEEK:,}: {weeks:.4f} fleet-weeks of 3"
    return [*lines, "", f"{run}. At {', '.join(done.get('commits', []))}; the parts count from 0."]


def _both(delays: list[int | None]) -> str:
    return " / ".join(map(_delay, delays)) if delays[0] is not None else "never"


def _delay(delay: int | None) -> str:
    return "never" if delay is None else f"{delay:,}"


def first_tables(kept: dict[str, Any]) -> list[str]:
    """The tables of delays and of false flags on the first kinds of traffic."""
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
    lines += [f"| {row['traffic']} | {row['flag'][0]} / {row['flag'][1]} | - | - | - |" for row in kept["slow"]]
    lines += ["", "| share of bad answers | tenant-years | flagged | most evidence, nats |", "|---|---|---|---|"]
    for kind in KINDS:
        of = kept["parts"].get(kind, {"parts": 0, "flagged": 0, "most": 0.0})
        years = of["parts"] * TENANTS * PART_S / (365.25 * 86_400)
        lines.append(f"| {kind} | {years:,.1f} | {of['flagged']} | {of['most']:.1f} |")
    measured = {row["commit"] for row in (*kept["delays"], *kept["slow"])}
    commits = ", ".join(sorted(measured.union(*(of["commits"] for of in kept["parts"].values()))))
    return [*lines, "", f"At {commits}; a fleet of {FLEET:,} tenants. Seeds count from 0."]


if __name__ == "__main__":
    main()
