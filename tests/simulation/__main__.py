"""`python -m tests.simulation`: runs seeds, one after the other, and says which of them found something."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:500", metavar="A:B", help="seeds A up to, not including, B")
    parser.add_argument("--seed", type=int, metavar="N", help="one seed")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--mutation", metavar="NAME", help="plant a mistake first")
    parser.add_argument("--stop", action="store_true", help="stop at the first violation")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    from tests.simulation.faults import draw
    from tests.simulation.mutations import planted
    from tests.simulation.run import Run, prepare

    prepare()
    first, _, last = options.seeds.partition(":")
    seeds = range(options.seed, options.seed + 1) if options.seed is not None else range(int(first), int(last))
    began, found, counts = time.process_time(), {}, Counter[str]()
    digests: dict[int, str] = {}
    for seed in seeds:
        with planted(options.mutation):
            outcome = Run(draw(seed), keep_trace=options.trace).go()
        counts += outcome.counts
        digests[seed] = outcome.digest
        if options.trace:
            print("\n".join(outcome.trace))
        if outcome.violation:
            found[seed] = outcome.violation
            if not options.json:
                print(f"seed {seed}: {outcome.violation[-400:]}", flush=True)
            if options.stop:
                break
    took = time.process_time() - began
    if options.json:
        document = {"seeds": len(digests), "found": found, "cpu_s": took, "counts": counts, "digests": digests}
        print(json.dumps(document))
        return 1 if found else 0
    print(f"{len(digests)} seeds, {len(found)} with a violation, {1000 * took / len(digests):.0f} ms each")
    for name, n in sorted(counts.items()):
        print(f"{n:8} {name}")
    return 1 if found else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of text are gone through in the order of their hashes
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main())
