"""`make faults`: each kind of fault, some rounds of it, into docs/faults.md.

    python -m tests.faults [--rounds 5] [--only KIND,KIND] [--minutes M] [--fresh]

A round of a kind is one run of its tests. What was done is kept in build/faults.json, and the next call goes on where
this one stopped while the code is the same: fifty rounds may be done in parts (`--rounds 50 --minutes 45`). Ends with 1
when a round failed, and says where its output is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.record import RECORD, SEED, Found

ROOT = Path(__file__).parents[2]
STATE = ROOT / "build" / "faults.json"
DOCUMENT = ROOT / "docs" / "faults.md"

KINDS: dict[str, tuple[str, ...]] = {
    "kills": ("tests/faults/test_kill_loop.py",),
    "partitions": ("tests/faults/test_partition.py",),
    "executors killed": ("tests/faults/test_train_kills.py",),
    "failover": ("tests/services/test_hub_failover.py", "tests/services/test_postgres_hubs.py"),
    "full disks": ("tests/integration/agent/test_full_disk.py", "tests/integration/hub/test_full_disk.py"),
    "read-only disks": ("tests/integration/agent/test_read_only_disk.py",),
    "frozen processes": (
        "tests/integration/agent/test_liveness.py",
        "tests/integration/hub/test_frozen.py::"
        "test_a_hub_that_was_stopped_for_longer_than_the_ttl_loses_no_node_and_takes_no_job_away",
    ),
    "clock steps": (
        "tests/integration/hub/test_frozen.py::"
        "test_after_the_clock_was_set_back_a_time_still_means_what_was_there_then",
    ),
    "restores": ("tests/e2e/test_restore.py", "tests/e2e/test_rebuild.py", "tests/integration/hub/test_recover.py"),
    "split brain": ("tests/integration/agent/test_two_hubs.py",),
    "router upgrades": (
        "tests/integration/router/test_hand_over.py",
        "tests/integration/agent/test_router_restarts.py",
    ),
}
"""What a round of each kind runs. Disks and clocks mount, and need root."""

KILLS = "10"
"""Kills in a round of the kinds that kill."""

ROUND_S = 1800.0
"""A round that takes longer has failed."""


@dataclass
class Kind:
    """What the rounds of one kind came to. The counts are the tests' own: of moves that were acknowledged to them, of
    those that were gone afterwards, and of answers by a release that was left, sent after the acknowledgement."""

    rounds: int = 0
    failed: int = 0
    seconds: float = 0.0
    seeds: list[int] = field(default_factory=list)
    moves: int = 0
    lost: int = 0
    late: int = 0
    answers: int = 0

    def add(self, found: Sequence[Found]) -> None:
        """Adds what the tests of one round have recorded."""
        for one in found:
            self.moves += one.moves
            self.lost += one.lost
            self.late += one.late
            self.answers += one.answers


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each kind, those that were done included (default 5)")
    parser.add_argument("--only", metavar="KIND,KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--minutes", type=float, help="begin no round after so many")
    parser.add_argument("--fresh", action="store_true", help="forget what was done")
    parser.add_argument("--state", type=Path, default=STATE, help=argparse.SUPPRESS)
    parser.add_argument("--document", type=Path, default=DOCUMENT, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    names = given.only.split(",") if given.only else list(KINDS)
    if unknown := set(names) - KINDS.keys():
        parser.error(f"no kind is called {', '.join(sorted(unknown))}")
    until = time.monotonic() + given.minutes * 60 if given.minutes is not None else float("inf")
    commit = _commit()
    done = {} if given.fresh else _read(given.state, commit)
    failed = 0
    for number in range(given.rounds):  # every kind once, then every kind again: a part has something of each
        for name in names:
            kind = done.setdefault(name, Kind())
            if kind.rounds > number or time.monotonic() > until:
                continue
            failed += _round(name, kind, given.state.with_name("faults.log"))
            given.state.parent.mkdir(parents=True, exist_ok=True)
            given.state.write_text(json.dumps({"commit": commit, "kinds": {n: asdict(k) for n, k in done.items()}}))
            given.document.write_text(document(commit, done), encoding="utf-8")
    missing = [name for name in names if done.get(name, Kind()).rounds < given.rounds]
    if missing:
        print(f"not done yet: {', '.join(missing)}; call again to go on")
    return 1 if failed else 0


def _round(name: str, kind: Kind, log: Path) -> int:
    """One round. Returns 1 where it failed."""
    seed, record = random.SystemRandom().randrange(2**32), log.with_suffix(".records")
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    print(f"{name}, round {kind.rounds + 1}, seed {seed}", end=" ", flush=True)
    began = time.monotonic()
    with log.open("ab") as out:
        try:
            status = subprocess.run(
                [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *KINDS[name]],
                cwd=ROOT,
                env={**os.environ, RECORD: str(record), SEED: str(seed), "LORADECK_FAULT_ROUNDS": KILLS},
                stdout=out,
                stderr=out,
                timeout=ROUND_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    took = time.monotonic() - began
    kind.rounds, kind.seconds, kind.seeds = kind.rounds + 1, kind.seconds + took, [*kind.seeds, seed]
    kind.add(Found.read(record))
    kind.failed += status != 0
    print(f"{took:.0f} s" if status == 0 else f"{took:.0f} s FAILED ({status}): {log}", flush=True)
    return int(status != 0)


def _commit() -> str:
    """The last commit of the code that is tried, with a mark where the checkout differs from it."""
    run, paths = ["git", "-C", str(ROOT)], ["--", "console", "agents", "examples", "tests"]
    last = subprocess.run([*run, "log", "-1", "--format=%h", *paths], capture_output=True, text=True, check=True)
    changed = subprocess.run([*run, "diff", "--quiet", "HEAD", *paths], check=False).returncode
    return last.stdout.strip() + ("+" if changed else "")


def _read(state: Path, commit: str) -> dict[str, Kind]:
    """What was done for this commit."""
    if not state.exists():
        return {}
    held = json.loads(state.read_text())
    if held["commit"] != commit:
        print(f"what was done was of {held['commit']}; this is {commit}: from the beginning")
        return {}
    return {name: Kind(**kind) for name, kind in held["kinds"].items()}


_HEAD = """# Faults

Written by `make faults` (`python -m tests.faults`), not by hand. Each kind of fault is a run of its tests, some rounds
of each. The counts are the tests' own lists: of moves that were acknowledged to them, of those that were gone
afterwards, and of answers that a left release gave to requests sent after the acknowledgement. Where a kind has no such
list, its tests assert that one move each way.

Of commit `{commit}` on {date}:

| fault | rounds | failed | moves acknowledged | lost | answers judged | by a left release | seconds a round | seeds |
|---|---|---|---|---|---|---|---|---|
"""

_TAIL = """
| fault | tests |
|---|---|
"""


def document(commit: str, done: dict[str, Kind]) -> str:
    """docs/faults.md of what was done."""
    lines = [_HEAD.format(commit=commit, date=time.strftime("%Y-%m-%d", time.gmtime()))]
    for name in KINDS:
        if (kind := done.get(name)) is not None and kind.rounds:
            counts = (kind.moves, kind.lost, kind.answers, kind.late) if kind.moves else ("", "", "", "")
            shown = " ".join(map(str, kind.seeds[:5])) + (" …" if len(kind.seeds) > 5 else "")
            cells = (name, kind.rounds, kind.failed, *counts, f"{kind.seconds / kind.rounds:.0f}", shown)
            lines.append(f"| {' | '.join(map(str, cells))} |\n")
    lines.append(_TAIL)
    for name, tests in KINDS.items():
        paths = ", ".join(f"`{path.partition('::')[0]}`" for path in tests)
        lines.append(f"| {name} | {paths} |\n")
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
