"""Agreement of raters: Krippendorff's alpha with an interval, and for each rater what tells a bad one from a good one.

- Alpha is 1 - observed / expected disagreement over items that two raters or more have judged, and takes any number of
  raters and missing judgements (Krippendorff, Content Analysis, 2004, chapter 11; the worked examples of his
  "Computing Krippendorff's Alpha-Reliability", 2011, are in the tests). Labels differ, or are apart on a scale by his
  ordinal metric.
- Its interval is the delete-one jackknife over items with Student's quantile: nothing is drawn at random, so equal
  judgements give equal figures (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11). The low end
  is never above what as many items without a single disagreement would show. Raters are taken as they are: other
  people may agree more or less.
- A rater is compared with what more than half of the others chose on the same item, never with alpha alone: with two
  raters to an item each disagreement counts against both. Who agrees less than the others do is found by Fisher's exact
  test, a habit for the answer that is shown first by the sign test, drift by Fisher's test of the two halves of the
  rater's time; each at 5 % over all raters together (Holm).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from loradeck.rules.quality.statistics import ALPHA, fisher, holm, mcnemar, t95, upper_bound, wilson
from loradeck.schemas.preference import Agreement, Counted, RaterFigures

GOLD_FLOOR = 0.85
"""Share of gold items that are to be right."""


class Vote(NamedTuple):
    """A judgement as statistics count it. `first`: whether the answer shown first was chosen; None: not a choice."""

    item: str
    rater: str
    choice: str
    first: bool | None
    at_ms: int


def counted(k: int, n: int) -> Counted:
    """A share with Wilson's interval."""
    low, high = wilson(k, n)
    return Counted(k=k, n=n, low=low, high=high)


def alpha(ratings: Iterable[Sequence[str]], scale: Sequence[str] = ()) -> Agreement:
    """Krippendorff's alpha of items, each with what its raters chose; items with fewer than two are left out.

    `scale`: all labels from least to most, for the ordinal metric; empty: labels are the same or differ.
    """
    # Items whose raters chose the same weigh the same, so each kind of item is looked at once.
    kinds, margins = Counter(tuple(sorted(Counter(one).items())) for one in ratings if len(one) > 1), Counter[str]()
    unlike = Counter[_Unlike]()
    for kind, times in kinds.items():
        margins.update({label: count * times for label, count in kind})
        unlike.update({pair: weight * times for pair, weight in _unlike(kind, scale).items()})
    n, total, squares = kinds.total(), margins.total(), sum(count * count for count in margins.values())

    def value(less: _Kind = ()) -> float | None:
        """Alpha without one item of a kind; of labels without an order in a time that grows with that item alone."""
        left, of = unlike.copy(), total - sum(count for _, count in less)
        left.subtract(_unlike(less, scale))
        if scale:
            apart = _ordinal({label: margins[label] - dict(less).get(label, 0) for label in scale})
            observed = math.fsum(weight / few * apart[one, other] for (few, one, other), weight in left.items())
            expected = math.fsum(
                2 * (margins[one] - dict(less).get(one, 0)) * (margins[other] - dict(less).get(other, 0)) * far
                for (one, other), far in apart.items()
            )
        else:
            observed = math.fsum(weight / few for (few, *_), weight in left.items())
            expected = of * of - squares + sum(count * (2 * margins[label] - count) for label, count in less)
        return 1 - observed * (of - 1) / expected if expected else None

    whole = value()
    if whole is None:
        return Agreement(alpha=None, low=-1.0, high=1.0, n=n)
    half = 2.0
    if n > 2:
        # Where one item holds the only disagreement, nothing is known without it.
        left_out = [(value(kind) or 0.0, times) for kind, times in kinds.items()]
        mean = math.fsum(one * times for one, times in left_out) / n
        half = t95(n - 1) * math.sqrt((n - 1) / n * math.fsum(times * (one - mean) ** 2 for one, times in left_out))
    cap = 1 - upper_bound(0, n, 0.025) * total * (total - 1) / (total * total - squares)
    return Agreement(alpha=whole, low=max(-1.0, min(whole - half, cap)), high=min(1.0, whole + half), n=n)


_Kind = tuple[tuple[str, int], ...]
"""The labels of an item, sorted, each with how many chose it."""

_Unlike = tuple[int, str, str]
"""Raters of an item but one, and the two labels that differ; without an order all such pairs weigh the same: empty."""


def _unlike(kind: _Kind, scale: Sequence[str]) -> dict[_Unlike, int]:
    """Twice the pairs of raters of an item that chose different labels."""
    few = sum(count for _, count in kind) - 1
    if not scale:
        return {(few, "", ""): (few + 1) ** 2 - sum(count * count for _, count in kind)} if kind else {}
    placed = sorted(kind, key=lambda one: scale.index(one[0]))
    return {(few, one, other): 2 * many * more for at, (other, more) in enumerate(placed) for one, many in placed[:at]}


def _ordinal(margins: Mapping[str, int]) -> dict[tuple[str, str], float]:
    """Measures how far two labels are apart by the ordinal metric. `margins`: how often each was chosen, in order."""
    below, seen = dict[str, float](), 0.0
    for label, count in margins.items():
        below[label] = seen + count / 2
        seen += count
    labels = list(below)
    return {(one, other): (below[one] - below[other]) ** 2 for at, other in enumerate(labels) for one in labels[:at]}


def by_item(votes: Iterable[Vote]) -> dict[str, list[Vote]]:
    """The votes on each item."""
    found = defaultdict[str, list[Vote]](list)
    for vote in votes:
        found[vote.item].append(vote)
    return found


def majority(choices: Sequence[str]) -> str | None:
    """Returns what more than half have chosen; None: there is no such choice."""
    ((choice, count),) = Counter(choices).most_common(1) or [("", 0)]
    return choice if 2 * count > len(choices) else None


def raters(votes: Sequence[Vote], gold: Mapping[str, str], scale: Sequence[str] = ()) -> list[RaterFigures]:
    """Lists the figures of each rater, by their ids, with what stands out of them.

    `gold`: item -> the right choice. Gold items measure each rater alone, and are no part of the agreement.
    """
    items = by_item(vote for vote in votes if vote.item not in gold)
    own, agreed = defaultdict[str, list[Vote]](list), defaultdict[str, list[tuple[int, bool]]](list)
    for vote in votes:
        own[vote.rater].append(vote)
    for on_item in items.values():
        for vote in on_item:
            others = majority([other.choice for other in on_item if other.rater != vote.rater])
            if others is not None:
                agreed[vote.rater].append((vote.at_ms, vote.choice == others))
    names = sorted(own)
    right = {name: [like for _, like in sorted(agreed[name])] for name in names}
    first = {name: [vote.first for vote in own[name] if vote.first is not None] for name in names}
    known = {name: [vote.choice == gold[vote.item] for vote in own[name] if vote.item in gold] for name in names}
    all_right, all_n = sum(map(sum, right.values())), sum(map(len, right.values()))
    halves = {name: (one[: len(one) // 2], one[len(one) // 2 :]) for name, one in right.items()}
    sides = [sorted((sum(one), len(one) - sum(one))) for one in first.values()]
    tests = {
        "disagrees": [fisher(sum(one), len(one), all_right - sum(one), all_n - len(one)) for one in right.values()],
        "position": [min(1.0, 2 * mcnemar(more, fewer)) for fewer, more in sides],
        "drift": [fisher(sum(late), len(late), sum(early), len(early)) for early, late in halves.values()],
    }
    adjusted = {flag: holm(ps) for flag, ps in tests.items()}
    found = []
    for at, name in enumerate(names):
        early, late = halves[name]
        of_gold = counted(sum(known[name]), len(known[name]))
        rest = [[vote.choice for vote in on_item if vote.rater != name] for on_item in items.values()]
        flags = [flag for flag, ps in adjusted.items() if ps[at] <= ALPHA]
        found.append(
            RaterFigures(
                rater=name,
                judgements=len(own[name]),
                agrees=counted(sum(right[name]), len(right[name])),
                without=alpha(rest, scale),
                gold=of_gold,
                first=counted(sum(first[name]), len(first[name])),
                early=counted(sum(early), len(early)),
                late=counted(sum(late), len(late)),
                flags=tuple(flags + ["gold"] * (of_gold.high < GOLD_FLOOR)),
            )
        )
    return found
