"""`make demo`: a bad adapter goes live at three in the morning, and goes back with one key.

A hub and two nodes run as separate processes on loopback; adapters are trained here, on a real small model, by
the fleet's own jobs. In a terminal it ends in the console, with the bad release live: press R. Without one it
presses R itself, makes twenty moves under traffic, and prints what was measured; it exits 0 only if every claim
held.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path

import platformdirs

from incident.fleet import CommandFailed, Fleet, NotReady
from incident.play import run
from incident.progress import Progress
from incident.sabotage import CONTROLS
from loradeck.client.errors import ClientError
from loradeck_agent.testing.base_model import BaseModelError, ensure_base


def main() -> int:
    began = time.monotonic()
    options = _options()
    progress = Progress()
    root = platformdirs.user_cache_path("loradeck") / "demo"
    if options.fresh:
        shutil.rmtree(root, ignore_errors=True)
    resumed = (root / "hub" / "hub.db").exists()
    expected = "Resuming an earlier run." if resumed else "The first run trains five adapters: 4 to 8 minutes."
    progress.say(f"Loradeck demo: a hub, two nodes and three tenants on this machine. {expected}")
    try:
        with progress.step("base model SmolLM2-135M-Instruct (converted once, 269 MB in the cache)") as step:
            base = ensure_base(progress=step.update)
        fleet = Fleet(root=root, base=base)
        try:
            return asyncio.run(_until_ended(run(fleet, options, progress, began)))
        finally:
            with progress.step("stopping the fleet"):
                fleet.stop()
    except (KeyboardInterrupt, asyncio.CancelledError):
        progress.say("interrupted; everything that was started has been stopped")
        return 130
    except (NotReady, CommandFailed, ClientError, BaseModelError, ExceptionGroup) as error:
        for one in error.exceptions if isinstance(error, ExceptionGroup) else (error,):
            print(f"demo: {one}", file=sys.stderr)
        print(f"Logs are in {root}; `make demo FRESH=1` starts over.", file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--play", action="store_true", help="play the incident and report, in a terminal too")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run: train again")
    parser.add_argument("--sabotage", choices=CONTROLS, help="break one node on purpose: the report must turn red")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report as JSON")
    return parser.parse_args()


async def _until_ended(course: Coroutine[None, None, int]) -> int:
    """Run it; SIGTERM and a lost terminal end it as Ctrl-C does, so that the fleet is stopped in order."""
    task = asyncio.ensure_future(course)
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())
