"""`python -m tests.exhaustive`: looks at every world within larger bounds than `make test` does."""

from __future__ import annotations

import argparse
import time
from typing import Any

from tests.exhaustive import hand_over
from tests.exhaustive.worlds import Check

from loradeck.schemas.table import RouteResidency


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m tests.exhaustive", description=main.__doc__)
    asked.add_argument("--moves", type=int, default=4, help="most commits")
    asked.add_argument("--takeovers", type=int, default=2, help="how often another hub takes the lease")
    bounds = asked.parse_args()
    more: dict[str, dict[str, Any]] = {
        "": {},
        ", v2 breached": {"breached": ("v2",)},
        ", on demand": {"residency": RouteResidency.ON_DEMAND},
    }
    for named, how in more.items():
        began = time.process_time()
        check = Check(moves=bounds.moves, takeovers=bounds.takeovers, **how)
        check.run()
        _say(f"{bounds.moves} moves, {bounds.takeovers} takeovers{named}", check, began)
    began = time.process_time()
    routers = hand_over.Check(starts=4, moves=2)
    routers.run()
    _say("4 routers, 2 moves", routers, began)


def _say(what: str, check: Check | hand_over.Check, began: float) -> None:
    seconds = time.process_time() - began
    print(f"{what}: {check.worlds:,} worlds, {check.steps:,} steps, no violation, {seconds:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
