"""Campaigns of judgements with known raters, and the two tables of docs/preferences.md that are counted from them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from loradeck.rules.quality.agreement import Vote, alpha, raters
from loradeck.schemas.preference import RaterFigures

TIMES = 40
"""Campaigns to a line of the first table."""


class Habits(NamedTuple):
    """How one rater judges: how often right, how often by position alone, and how often right in the second half."""

    right: float
    by_position: float = 0.0
    later: float | None = None


GOOD = Habits(0.85)
PLANTED = {
    "none": GOOD,
    "one guesses": Habits(0.5),
    "one is right in 70 % instead of 85 %": Habits(0.7),
    "one takes what is shown first, in half of all": Habits(0.85, by_position=0.5),
    "one guesses from the middle on": Habits(0.85, later=0.5),
}


def votes_of(habits: Sequence[Habits], items: int, each: int, seed: int) -> list[Vote]:
    """The votes of raters `r0`, `r1`, ... on items that each of `each` of them judges; the right answer is a or b."""
    drawn, votes = random.Random(seed), []
    for item in range(items):
        truth = drawn.choice("ab")
        for rater in drawn.sample(range(len(habits)), each):
            of, shown = habits[rater], drawn.choice("ab")
            right = of.later if of.later is not None and item >= items / 2 else of.right
            choice = truth if drawn.random() < right else "ba"["ab".index(truth)]
            if drawn.random() < of.by_position:
                choice = shown
            votes.append(Vote(f"i{item}", f"r{rater}", choice, choice == shown, item))
    return votes


def found(planted: Habits, items: int, each: int) -> tuple[int, int, int, int]:
    """Counts `TIMES` campaigns of five raters: the planted one is flagged, is by `disagrees`, is the one without whom
    alpha is the highest; another one is flagged.
    """
    flagged = disagrees = highest = others = 0
    for seed in range(TIMES):
        known = {one.rater: one for one in raters(votes_of([planted, *[GOOD] * 4], items, each, seed), {})}
        flagged += bool(known["r0"].flags)
        disagrees += "disagrees" in known["r0"].flags
        highest += max(known.values(), key=_without).rater == "r0"
        others += any(one.flags for name, one in known.items() if name != "r0")
    return flagged, disagrees, highest, others


def _without(one: RaterFigures) -> float:
    assert one.without.alpha is not None
    return one.without.alpha


def found_table() -> list[str]:
    """Lines of the table of planted raters."""
    lines = []
    for name, habits in PLANTED.items():
        for each in (2, 3):
            flagged, disagrees, highest, others = found(habits, 200, each)
            lines.append(f"| {name} | {each} | {flagged} | {disagrees} | {highest} | {others} | {TIMES} |")
    return lines


def covered_table(times: int = 200) -> list[str]:
    """Lines of the table of intervals: how many hold the alpha that such raters have in the long run."""
    lines = []
    for right in (0.7, 0.85, 0.97):
        for items in (60, 200):
            true = 1 - 4 * right * (1 - right)
            held = low = 0
            width = 0.0
            for seed in range(times):
                votes = votes_of([Habits(right)] * 2, items, 2, seed)
                made = alpha([[a.choice, b.choice] for a, b in zip(votes[::2], votes[1::2], strict=True)])
                held += made.low <= true <= made.high
                low += made.low > true
                width += (made.high - made.low) / 2 / times
            lines.append(f"| {true:.2f} | {items} | {held} | {low} | ±{width:.2f} | {times} |")
    return lines
