"""`make bench`: the budgets of the design, each beside its floor, measured in this run. A missed one says MISSED."""

from __future__ import annotations

import platform
import sys

from tests.bench import flip, router


def main() -> int:
    print(f"{platform.machine()}, Python {platform.python_version()}; engines idle, everything on loopback\n")
    missed = 0
    for part in (flip, router):
        for row in part.measure():
            print(row, flush=True)
            missed += row.missed
        print()
    print(f"{missed} budgets MISSED" if missed else "every budget held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
