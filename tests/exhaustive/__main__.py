"""`python -m tests.exhaustive`: looks at every world within larger bounds than `make test` does."""

from __future__ import annotations

import argparse
import time

from tests.exhaustive.worlds import Check


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m tests.exhaustive", description=main.__doc__)
    asked.add_argument("--moves", type=int, default=4, help="most commits")
    asked.add_argument("--takeovers", type=int, default=2, help="how often another hub takes the lease")
    bounds = asked.parse_args()
    for breached in ((), ("v2",)):
        began = time.process_time()
        check = Check(moves=bounds.moves, takeovers=bounds.takeovers, breached=breached)
        check.run()
        named = f", {breached[0]} breached" if breached else ""
        seconds = time.process_time() - began
        print(f"{bounds.moves} moves, {bounds.takeovers} takeovers{named}: {check.worlds:,} worlds, ", end="")
        print(f"{check.steps:,} steps, no violation, {seconds:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
