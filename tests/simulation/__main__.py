"""`python -m tests.simulation`: runs seeds, one after the other, and says which of them found something."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import coverage

ROOT = Path(__file__).parents[2]

MEASURED = (
    "console/loradeck/rules/*",
    "console/loradeck/hub/log/*",
    "console/loradeck/hub/fleet/*",
    "console/loradeck/hub/links/*",
    "console/loradeck/hub/recovery/*",
    "agents/loradeck_agent/router/switch.py",
    "agents/loradeck_agent/router/table.py",
    "agents/loradeck_agent/router/admission.py",
    "agents/loradeck_agent/uplink/*",
    "agents/loradeck_agent/serving/router_sync.py",
)
"""What `--coverage` prints."""


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument(
        "--seeds", default="0:500", metavar="A:B,…", help="seeds A up to, not including, B; one is named by its number"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="one seed")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--shrink", action="store_true", help="make the plan of a failing seed smaller first")
    parser.add_argument(
        "--mutation", metavar="NAME", help="plant a mistake first, and draw its plans; see mutations.py"
    )
    parser.add_argument(
        "--mutations",
        action="store_true",
        help="plant each mistake in turn, until a seed notices it, the one that did before first",
    )
    parser.add_argument("--faults", metavar="KIND,…", default="", help="draw every fault of these kinds")
    parser.add_argument("--stop", action="store_true", help="stop at the first violation")
    parser.add_argument("--coverage", action="store_true", help="print which lines of the product were run")
    parser.add_argument("--functions", action="store_true", help="print which functions of the rules were run")
    parser.add_argument("--long", type=int, metavar="N", help="N seeds in parts, written to docs/simulation.*; goes on")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


def main() -> int:
    """Runs what the command line says. Returns the exit status."""
    asked = options()
    with _covered() if asked.coverage else nullcontext():
        if asked.long is not None:
            from tests.simulation import long_run

            return long_run.run(asked.long)
        return mutations(asked) if asked.mutations else seeds(asked)


def range_of(asked: argparse.Namespace) -> list[int]:
    """The seeds that the command line names."""
    named: list[int] = []
    for part in asked.seeds.split(",") if asked.seed is None else [str(asked.seed)]:
        first, colon, last = part.partition(":")
        named += range(int(first), int(last) if colon else int(first) + 1)
    return named


def seeds(asked: argparse.Namespace) -> int:
    """Runs seeds and prints what they found."""
    from tests.simulation.called_rules import watch
    from tests.simulation.faults import Plan, draw
    from tests.simulation.mutations import AS_IT_IS, MUTATIONS, planted
    from tests.simulation.run import Outcome, Run, prepare
    from tests.simulation.shrink import shrink

    mistake = MUTATIONS[asked.mutation] if asked.mutation else AS_IT_IS

    def go(plan: Plan, trace: bool = False) -> Outcome:
        with planted(mistake):
            return Run(plan, keep_trace=trace).go()

    prepare()
    began, found, counts = time.process_time(), {}, Counter[str]()
    digests: dict[int, str] = {}
    called = watch() if asked.functions else set()
    for seed in range_of(asked):
        plan = draw(seed, [*filter(None, asked.faults.split(","))] or mistake.faults, mistake.asks)
        outcome = go(plan, asked.trace and not asked.shrink)
        counts += outcome.counts
        digests[seed] = outcome.digest
        if asked.shrink and outcome.violation:
            plan = shrink(plan, lambda smaller: go(smaller).violation)
            print(f"seed {seed} shrunk to {plan.nodes} nodes, {plan.moves} moves, {plan.seconds:.1f} s, faults:")
            for fault in plan.faults:
                print(f"  {fault}")
            outcome = go(plan, asked.trace)
        if asked.trace:
            print("\n".join(outcome.trace))
        if outcome.violation:
            found[seed] = outcome.violation
            if not asked.json:
                print(f"seed {seed}: {outcome.violation[-400:]}", flush=True)
            if asked.stop:
                break
    _print(asked, found, counts, digests, time.process_time() - began, sorted(called))
    return 1 if found else 0


def mutations(asked: argparse.Namespace) -> int:
    """Plants each mistake and prints the first seed that notices it, and how."""
    from tests.simulation.faults import draw
    from tests.simulation.mutations import MUTATIONS, planted
    from tests.simulation.run import Run, prepare

    prepare()
    found: dict[str, str] = {}
    for name, mistake in MUTATIONS.items():
        seeds = range_of(asked)
        for seed in dict.fromkeys((*filter(seeds.__contains__, (mistake.seed,)), *seeds)):
            with planted(mistake):
                violation = Run(draw(seed, mistake.faults, mistake.asks)).go().violation
            if violation:
                found[name] = f"{seed}: {violation[-400:]}"
                break
        if not asked.json:
            print(f"{name} {found.get(name, 'is not noticed')}", flush=True)
    if asked.json:
        print(json.dumps({"found": found, "mutations": list(MUTATIONS)}))
    return 0 if len(found) == len(MUTATIONS) else 1


def _print(
    asked: argparse.Namespace,
    found: dict[int, str],
    counts: Counter[str],
    digests: dict[int, str],
    took: float,
    functions: list[str],
) -> None:
    if asked.json:
        document = {"seeds": len(digests), "found": found, "cpu_s": took, "counts": counts, "digests": digests}
        print(json.dumps({**document, "functions": functions}))
        return
    for function in functions:
        print(function)
    for name, n in sorted(counts.items()):
        print(f"{n:8} {name}")
    print(
        f"{len(digests)} seeds, {len(found)} with a violation, {1000 * took / max(1, len(digests)):.0f} ms of CPU each"
    )


class _covered:
    """Measures lines while the block runs, and prints them at its end."""

    def __enter__(self) -> None:
        self._coverage = coverage.Coverage(include=[str(ROOT / name) for name in MEASURED], data_file=None)
        self._coverage.start()

    def __exit__(self, *error: Any) -> None:
        self._coverage.stop()
        self._coverage.report(file=sys.stdout)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of text are gone through in the order of their hashes
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main())
