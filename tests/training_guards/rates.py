"""How often each guard ends runs in which nothing changes, and how soon it ends those that change.

    python -m tests.training_guards.rates

It draws every kind of run, and writes docs/training-guards.json and the tables of docs/training-guards.md: some minutes
of one core. Seeds count from 0, so that a test draws the first runs of each kind again.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.training_guards import shares, steps
from tests.training_guards.shares import Set

from loradeck.rules.quality.statistics import fell, wilson
from loradeck.schemas.training import Validation
from loradeck_agent.executors.training.validation import NAMES, TOXIC

DOCS = Path(__file__).parents[2] / "docs"
KEPT, PAGE = DOCS / "training-guards.json", DOCS / "training-guards.md"
RUNS, AGAIN = 200, 3
"""Runs of each kind, and those of them that a test draws again."""


@dataclass(frozen=True)
class Kind:
    """Runs of one kind. `change`: what happens to them in words; empty: nothing. `at`: when, in the guard's unit."""

    guard: str
    name: str
    change: str
    at: int
    ended: Callable[[int], int | None]


def _losses() -> Iterator[Kind]:
    noises = {
        "lognormal, 0.5; 4 rows a step": (steps.lognormal(0.5, 0.3), 4),
        "lognormal, 1.0; 1 row a step": (steps.lognormal(1.0, 0.3), 1),
        "Student's t, 0.5; 1 row a step": (steps.heavy(0.5, 0.3), 1),
        "a twentieth wrong; 4 rows a step": (steps.wrong(0.05, 3.0, 0.05), 4),
        "a quarter of another kind; 1 row a step": (steps.wrong(0.25, 1.0, 0.05), 1),
        "a quarter of another kind; 4 rows a step": (steps.wrong(0.25, 1.0, 0.05), 4),
        "as recorded; 1 row a step": (steps.as_recorded, 1),
        "as recorded; 4 rows a step": (steps.as_recorded, 4),
    }
    changes = {
        "": steps.steady,
        "6 times as high": steps.times(6),
        "20 times as high": steps.times(20),
        "at 3 nats": steps.unlearnt,
        "doubles every 5 steps": steps.doubling(5),
        "doubles every 20 steps": steps.doubling(20),
    }
    for name, (draw, batch) in noises.items():
        for change, of in changes.items():
            ended = partial(steps.loss_ended, draw=draw, batch=batch, change=of)
            yield Kind("loss_spike", name, change, steps.CHANGE, ended)


def _chosen() -> Iterator[Kind]:
    answers = {
        "answers of 60 nats; 4 pairs a step": (steps.answers_of(60, 0.5, 0.1), 4),
        "answers of 20 nats; 1 pair a step": (steps.answers_of(20, 0.7, 0.2), 1),
        "answers of 1.5 nats; 1 pair a step": (steps.answers_of(1.5, 0.8, 0.3), 1),
        "answers of 1.5 nats; 4 pairs a step": (steps.answers_of(1.5, 0.8, 0.3), 4),
        "one sure word; 1 pair a step": (steps.sure, 1),
        "one sure word; 4 pairs a step": (steps.sure, 4),
    }
    for name, (draw, batch) in answers.items():
        for fall in (0.0, 0.2, 0.6, 2.0, 10.0):
            ended = partial(steps.chosen_ended, draw=draw, batch=batch, fall=fall)
            yield Kind("chosen_fell", name, f"falls by {fall:.0%}" if fall else "", steps.CHANGE, ended)


def _suites() -> Iterator[Kind]:
    for n in (20, 50, 100):
        for before in (0.8, 0.5):
            for after in (before, before - 0.2, before - 0.4):
                change = f"{before - after:.0%} less right" if after < before else ""
                of = shares.steps(before, after)
                ended = partial(shares.suite_ended, n=n, shares=of, kept=0.9)
                yield Kind("suite_fell", f"{n} items, {before:.0%} right", change, shares.CHANGE, ended)


def _safety() -> Iterator[Kind]:
    for kept in (0.0, 0.9):
        how = "drawn anew" if not kept else "nine in ten kept"
        for n in (4, 20, 50):
            for share, after in ((0.9, 0.5), (0.9, 0.1)):
                yield from _set("safety_fell", Set(5, n, NAMES[True], share), after, kept, how)
        for n in (8, 20, 100):
            for share, after in ((0.02, 0.12), (0.02, 0.4)):
                yield from _set("toxicity_rose", Set(5, n, TOXIC, share), after, kept, how)


def _set(guard: str, of: Set, after: float, kept: float, how: str) -> Iterator[Kind]:
    name = f"5 slices of {of.prompts}, {of.share:.0%}, {how}"
    for changing, where in ((0, ""), (5, "in all"), (1, "in one")):
        ended = partial(shares.safety_ended, of=of, after=after, changing=changing, kept=kept)
        yield Kind(guard, name, f"{after:.0%} {where}" if changing else "", shares.CHANGE, ended)


@cache
def kinds() -> tuple[Kind, ...]:
    """All kinds of runs; those without a change once."""
    every = [*_losses(), *_chosen(), *_suites(), *_safety()]
    return tuple({(one.guard, one.name, one.change): one for one in every}.values())


def measured(kind: Kind, runs: int) -> dict[str, Any]:
    """Draws runs of a kind, and counts those that ended: in all, and from the change on."""
    ends = [kind.ended(seed) for seed in range(runs)]
    if not kind.change:
        seen = [end for end in ends if end is not None]
    else:
        seen = [end - kind.at for end in ends if end is not None and end >= kind.at]
    return {
        "guard": kind.guard,
        "name": kind.name,
        "change": kind.change,
        "runs": runs,
        "ended": len(seen),
        "after": statistics.median(seen) if kind.change and seen else None,
        "first": ends[:AGAIN],
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A guard's table: a line for each kind of run, and a column for each change, none first."""
    found = {(row["name"], row["change"]): row for row in rows}
    names, changes = (dict.fromkeys(row[key] for row in rows) for key in ("name", "change"))
    lines = ["| runs | falsely, 95 % | " + " | ".join(filter(None, changes)) + " |", "|---" * (len(changes) + 1) + "|"]
    for name in names:
        steady, cells = found[name, ""], []
        low, high = wilson(steady["ended"], steady["runs"])
        for row in (found[name, change] for change in changes if change):
            after = f", after {row['after'] + 1:g}" if row["after"] is not None else ""
            cells.append(f"{row['ended'] / row['runs']:.0%}{after}")
        falsely = f"{steady['ended'] / steady['runs']:.1%} ({low:.1%} to {high:.1%})"
        lines.append(f"| {name} | {falsely} | {' | '.join(cells)} |")
    return lines


def write(rows: Sequence[dict[str, Any]], stamp: str) -> None:
    """Writes the rows down, and each guard's table between its markers."""
    kept = json.loads(KEPT.read_text()) | {"commit": stamp, "rows": list(rows)}
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    text = PAGE.read_text()
    for guard in dict.fromkeys(row["guard"] for row in rows):
        begin, end = f"<!-- {guard}: written by python -m tests.training_guards.rates -->", f"<!-- /{guard} -->"
        lines = table([row for row in rows if row["guard"] == guard])
        lines += ["", f"{RUNS} runs a line, seeds from 0, at {stamp}."]
        text = f"{text[: text.index(begin)]}{begin}\n\n" + "\n".join(lines) + f"\n\n{text[text.index(end) :]}"
    PAGE.write_text(text)


def exactly_ended(items: int, rights: Sequence[float], worse: float = Validation().worse) -> float:
    """How likely a suite for selection ends a run, if each look draws its answers anew. `rights`: the base's first."""
    best, planned = [0.0] * (items + 1), shares.LOOKS

    @cache
    def ends(most: int, right: int) -> bool:
        return fell(most / items, right / items, items, worse, planned * (planned + 1) // 2)

    for look, share in enumerate(rights):
        drawn = [math.comb(items, k) * share**k * (1 - share) ** (items - k) for k in range(items + 1)]
        after = [0.0] * (items + 1)
        for most, likely in enumerate(best):
            for right, p in enumerate(drawn) if likely else ():
                if not ends(most, right):
                    after[max(most, right)] += likely * p
        best = after if look else drawn
    return 1 - math.fsum(best)


def main() -> None:
    """Draws every kind and writes the tables."""
    stamp = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=DOCS, capture_output=True, text=True, check=True
    )
    rows = []
    for kind in kinds():
        rows.append(measured(kind, RUNS))
        print(rows[-1], flush=True)
    write(rows, stamp.stdout.strip())


if __name__ == "__main__":
    main()
