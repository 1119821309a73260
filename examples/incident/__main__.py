"""`make demo`: a bad adapter goes live at three in the morning, and goes back with one key.

A hub, two nodes and a gateway run as separate processes on loopback; adapters are trained here, on a real small
model, by the fleet's own jobs. In a terminal it ends in the console, with the bad release live: press R. Without one
it presses R itself, makes twenty moves under traffic, drains a node of a pool, and prints what was measured.

The routes of acme and cedar are `always`: their live release, and the one R goes to, keep slots. bolt's is on demand.
acme is placed by labels, on both nodes; cedar and bolt in the pool `shared`, on one of its nodes each.

exit status:
  0    every claim held (in the console: it was left in order)
  1    a claim is broken: a counterexample was observed
  2    usage
  3    inconclusive: a claim, or the whole run, lacks evidence, and the reason is printed
  128+N  ended by signal N (130: Ctrl-C); everything that was started has been stopped
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import platformdirs

from base_model import FOLDER, default_cache
from incident import leftovers
from incident.fleet import CommandFailed, Fleet, NotReady, NotStopped
from incident.play import run
from incident.progress import Progress
from incident.sabotage import CONTROLS
from incident.verdict import EXIT_STATUS, Verdict
from loradeck.client.errors import ClientError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEP_FAILED = (NotReady, CommandFailed, ClientError, leftovers.FolderInUse)
"""Errors of a step, for people; anything else is a defect of the demo and shows its traceback."""


class Interrupted(BaseException):
    """A signal asked for the end. Its number is the argument."""


def main() -> int:
    """Plays the demo; returns its exit status."""
    began = time.monotonic()
    options = _options()
    root = platformdirs.user_cache_path("loradeck") / "demo"
    progress = Progress()
    try:
        with _signals_raise(), leftovers.guard(root):
            return _on_a_fleet(_folder(root, options, progress), options, progress, began)
    except Interrupted as interrupted:
        number = int(interrupted.args[0])
        progress.say(f"interrupted by {signal.Signals(number).name}; everything that was started has been stopped")
        return 128 + number
    except (*STEP_FAILED, ExceptionGroup) as error:
        causes = _causes(error)
        if not all(isinstance(cause, STEP_FAILED) for cause in causes):
            raise
        for text in dict.fromkeys(map(str, causes)):
            print(f"demo: {text}", file=sys.stderr)
        print(
            f"INCONCLUSIVE: a step failed, see above. Logs: {root}. `make demo FRESH=1` starts over.", file=sys.stderr
        )
        return EXIT_STATUS[Verdict.INCONCLUSIVE]


def _causes(error: Exception) -> list[Exception]:
    """The errors in a group, and in the groups in it; the error itself if it is none."""
    if not isinstance(error, ExceptionGroup):
        return [error]
    return [cause for one in error.exceptions for cause in _causes(one)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--play", action="store_true", help="play the incident and report, in a terminal too")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run: train again")
    parser.add_argument("--sabotage", choices=CONTROLS, help="break one node on purpose: the report must turn red")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report as JSON")
    return parser.parse_args()


def _folder(root: Path, options: argparse.Namespace, progress: Progress) -> Path:
    """The demo's folder, emptied for a fresh start."""
    if options.fresh:
        for path in root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != leftovers.LOCK:
                path.unlink()
    resumed = (root / "hub" / "hub.db").exists()
    expected = (
        "Resuming an earlier run."
        if resumed
        else "The first run trains five adapters: 5 to 6 minutes on two idle cores."
    )
    progress.say(f"Loradeck demo: a hub, two nodes, a gateway and three tenants on this machine. {expected}")
    return root


def _on_a_fleet(root: Path, options: argparse.Namespace, progress: Progress, began: float) -> int:
    """Plays on a fleet in `root`, and stops all of it however that ends; signals wait until it is stopped."""
    fleet = Fleet(root=root, base=default_cache() / FOLDER, tls=True, gateway="gw-01")
    problem = ""
    try:
        status = asyncio.run(_until_ended(fleet, options, progress, began))
    finally:
        with _signals_wait(progress):
            try:
                with progress.step("stopping the fleet"):
                    fleet.stop()
            except NotStopped as error:  # beside whatever ended the run, and not in its place
                problem = str(error)
                print(f"demo: not everything ended in order:\n{problem}", file=sys.stderr)
    return status or (EXIT_STATUS[Verdict.INCONCLUSIVE] if problem else 0)


async def _until_ended(fleet: Fleet, options: argparse.Namespace, progress: Progress, began: float) -> int:
    """Runs the demo until it is over or a signal ends it, which cancels it so that what it holds is closed in order."""
    task = asyncio.ensure_future(run(fleet, options, progress, began))
    signalled: list[int] = []

    def end(number: int) -> None:
        signalled.append(number)
        fleet.interrupt()
        task.cancel()

    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        if before[number] is not signal.SIG_IGN:
            loop.add_signal_handler(number, end, number)
    try:
        return await task
    except BaseException:
        if signalled:  # whatever was raised on the way, it was for this
            raise Interrupted(signalled[0]) from None
        raise
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Signals that ask for the end raise Interrupted in the block. One that is ignored, as under nohup, stays so."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handled(interrupt):
        yield


@contextlib.contextmanager
def _signals_wait(progress: Progress) -> Iterator[None]:
    """Signals are answered with a line in the block: it takes seconds, and nothing may be left behind."""

    def wait(_number: int, _frame: FrameType | None) -> None:
        progress.update("still stopping what was started")

    with _handled(wait):
        yield


@contextlib.contextmanager
def _handled(handler: signal._HANDLER) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, earlier in before.items():
        if earlier is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


if __name__ == "__main__":
    sys.exit(main())
