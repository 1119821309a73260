"""Freshness meters, and what is recommended where they have a signal: nothing, a prompt, retrieval, or training again.

Meters compare the latest days of a route with earlier ones (`reference_days` says which), with the day as the unit.
Requests of one day are alike, so that a test over requests finds every day different. The reference are live days, not
training rows: those never looked like live traffic. Both spans are whole weeks, so that weekends are in both.

A signal is sustained by construction: it compares ranks of `RECENT_DAYS` days with the reference's, and one day,
however bad, is one rank.

Facts that change belong into retrieval, style and procedure into weights, and what a prompt mends into the prompt; an
answer that is no worse needs nothing, however far its inputs have moved.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from functools import cache
from statistics import fmean, stdev
from typing import NamedTuple, TypeVar

from loradeck.rules.quality.figures import figure as in_words
from loradeck.rules.quality.reference_days import REFERENCE_DAYS, Window
from loradeck.rules.quality.statistics import paired_items, t95
from loradeck.schemas.freshness import Figure, Meter, MeterKind, Recommendation, Remedy, Sizing

RECENT_DAYS = 7

ALPHA = 1e-4
"""Level of one look: at most 0.037 false signals a meter-year by the union bound over 365 looks, if days are alike.
A meter that compares with two references shares it between them.
"""

SPREADS = 3.0
"""Standard deviations of the first days by which the latest ones lie above them at least, on average. Days that are
like the day before them wander without end, and ranks alone would call that a change.
"""

MARGIN = 0.01
"""Points by which a share is higher at least: less is not worth training for."""

LEAST = 50
"""Requests, checked answers or summarised inputs from which on a day counts; of feedback, `LEAST_SAID` callers."""

LEAST_SAID = 5


class Day(NamedTuple):
    """One live day of a meter: its number since 1970 UTC, what was measured, and over how many requests."""

    day: int
    value: float
    n: int


class Histogram(NamedTuple):
    """Counts of a day in buckets, each of `n` requests."""

    day: int
    counts: Sequence[int]
    n: int


D = TypeVar("D", Day, Histogram)

Measure = Callable[[Sequence[int], int, Sequence[int], int], float]
"""What is measured of a day's counts of n requests, beside the counts of a pool of others."""


def rank_sum(reference: Sequence[float], recent: Sequence[float]) -> float:
    """Exact one-sided p-value of the rank-sum test: how likely the recent values rank so high if all were alike.

    Ties count against it. Mann and Whitney, Annals of Mathematical Statistics 18 (1947) 50; Wilcoxon 1945.
    """
    larger = sum(now > before for now in recent for before in reference)
    ways = _ways(len(reference), len(recent))
    return sum(ways[larger:]) / sum(ways)


@cache
def _ways(m: int, n: int) -> tuple[int, ...]:
    """Counts the orders of m and n values in which exactly u pairs favour the second kind, for u from 0 to m n."""
    if not m or not n:
        return (1,)
    first, second = _ways(m - 1, n), _ways(m, n - 1)
    return tuple(
        (first[u - n] if 0 <= u - n < len(first) else 0) + (second[u] if u < len(second) else 0)
        for u in range(m * n + 1)
    )


def figure(values: Sequence[float], of: int = 0) -> Figure | None:
    """Mean of values and its 95 % interval by Student's t, each value a unit; None for fewer than three."""
    if len(values) < 3:
        return None
    half = t95(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    mean = fmean(values)
    return Figure(mean=mean, low=mean - half, high=mean + half, n=len(values), of=of)


def compared(
    kind: MeterKind,
    days: Sequence[Day],
    what: str,
    *,
    live: range,
    share: bool = True,
    least: int = LEAST,
    level: float = ALPHA,
) -> Meter:
    """Makes the meter of a figure of days, in order: whether the latest are higher than the first.

    Args:
        what: the figure, in words.
        live: the whole days from the reference on. The first that counts is one of its first `REFERENCE_DAYS`, or the
            reference is kept no more; the latest are of the last 2 `RECENT_DAYS`.
        share: whether it is one, 0 to 1.
        least: requests from which on a day counts.
        level: largest p-value of a signal.
    """
    before, now = _held_together(days, live, least)
    if not before and any(day.n >= least for day in days):
        return Meter(kind=kind, says=f"{what}: no first days left")
    first, last = ([day.value for day in part] for part in (before, now))
    figures = [figure(values, sum(day.n for day in part)) for values, part in ((first, before), (last, now))]
    for part, of, which in ((before, REFERENCE_DAYS, "first"), (now, RECENT_DAYS, "later")):
        if len(part) < of:
            says = f"{what}: {len(part)} of {of} {which} days have {least} and more"
            return Meter(kind=kind, before=figures[0], now=figures[1], says=says)
    p, more = rank_sum(first, last), fmean(last) - fmean(first)
    signal = p <= level and more >= max(SPREADS * stdev(first), MARGIN if share else 0.0)
    usual, latest = (in_words(one, ".1%" if share else ".4f") for one in figures)
    since = date(1970, 1, 1) + timedelta(before[0].day)
    says = f"{what}: {latest} in the latest days, {usual} in the first, from {since} on"
    return Meter(kind=kind, before=figures[0], now=figures[1], p=p, signal=signal, says=says)


def of_share(
    kind: MeterKind,
    counted: Sequence[Day],
    what: str,
    *,
    windows: Iterable[Window],
    replayed: Sequence[Day] = (),
    least: int = LEAST,
) -> Meter:
    """Makes the meter of a share, compared within each window. Of those the surest is returned.

    Args:
        replayed: days of the live release that were counted elsewhere, in order: they stand in where none was counted
            here. The meter says how many of the days that it compares are such.
        least: what a day has to count.
    """
    parts: list[tuple[list[Day], range]] = []
    for window in windows:
        if (part := _from_the_reference(counted, replayed, window, least)) not in parts:
            parts.append(part)
    level = ALPHA / len(parts)
    meters = [
        (compared(kind, days, what, live=live, least=least, level=level), _held_together(days, live, least))
        for days, live in parts
    ]
    meter, (before, now) = max(meters, key=lambda one: (one[0].signal, one[0].p is not None, -(one[0].p or 0.0)))
    many = len(set(replayed) & {*before, *now})
    return meter.model_copy(update={"says": f"{meter.says}; {many} days are replayed"}) if many else meter


def _from_the_reference(
    counted: Sequence[Day], replayed: Sequence[Day], window: Window, least: int
) -> tuple[list[Day], range]:
    if replayed:
        window = window.after_days_elsewhere(replayed[0].day)
    known = {day.day: day for day in replayed} | {day.day: day for day in counted if window.has(day.day)}
    days = [known[day] for day in sorted(known)]
    live = window.live([day.day for day in days if day.n >= least])
    return [day for day in days if day.day in live], live


def _held_together(days: Sequence[Day], live: range, least: int) -> tuple[Sequence[Day], Sequence[Day]]:
    """The first days and the latest of `compared`; none of either where the first days are kept no more."""
    days = [day for day in days if day.n >= least]
    if days and days[0].day >= live.start + REFERENCE_DAYS:
        return [], []
    first, later = _split(days, live)
    return first, later[-RECENT_DAYS:]


def _split(days: Sequence[D], live: range) -> tuple[Sequence[D], Sequence[D]]:
    """The days of a reference, and those after it that are among the last 2 RECENT_DAYS."""
    later = [day for day in days[REFERENCE_DAYS:] if day.day >= live.stop - 2 * RECENT_DAYS]
    return days[:REFERENCE_DAYS], later


def of_histograms(kind: MeterKind, days: Sequence[Histogram], measure: Measure, what: str, *, window: Window) -> Meter:
    """Makes the meter of how far the days of a window are from its reference; `measure` says how that is measured."""
    counted = [day for day in days if window.has(day.day) and day.n >= LEAST]
    live = window.live([day.day for day in counted])
    first, later = _split([day for day in counted if day.day in live], live)
    return compared(kind, against_the_first([*first, *later], measure), what, live=live, share=False)


def against_the_first(days: Sequence[Histogram], measure: Measure) -> list[Day]:
    """Measures how far each day is from the first ones; each of these is held against the others of them."""
    days = [day for day in days if day.n >= LEAST]
    first = days[:REFERENCE_DAYS]
    if len(first) < 2:
        return []
    pool, n = [sum(counts) for counts in zip(*(day.counts for day in first), strict=True)], sum(day.n for day in first)
    found = []
    for number, day in enumerate(days):
        own = number < len(first)
        others = [a - b for a, b in zip(pool, day.counts, strict=True)] if own else pool
        found.append(Day(day.day, measure(day.counts, day.n, others, n - day.n if own else n), day.n))
    return found


def distance(counts: Sequence[int], n: int, pool: Sequence[int], of: int) -> float:
    """Squared distance of the shares of a day and a pool, summed over buckets; 0 on average where they are alike.

    What chance adds is taken off, so that a quiet day is not far for being quiet: the unbiased estimate of the maximum
    mean discrepancy with a linear kernel. Gretton et al., Journal of Machine Learning Research 13 (2012) 723, lemma 6.
    """
    total = 0.0
    for a, b in zip(counts, pool, strict=True):
        p, q = a / n, b / of
        total += (p - q) ** 2 - p * (1 - p) / (n - 1) - q * (1 - q) / (of - 1)
    return total


def largest_rise(counts: Sequence[int], n: int, pool: Sequence[int], of: int) -> float:
    """Returns the largest rise of any bucket's share over the pool's, in standard errors (z of two shares, pooled).

    A word that is new in many requests raises one bucket, whatever else falls into it.
    """
    largest = 0.0
    for a, b in zip(counts, pool, strict=True):
        both = (a + b) / (n + of)
        if 0 < both < 1:
            largest = max(largest, (a / n - b / of) / math.sqrt(both * (1 - both) * (1 / n + 1 / of)))
    return largest


WORSE = frozenset({MeterKind.CORRECTED, MeterKind.BAD})
"""Meters that look at answers: without one of them nothing is known to be worse. A request that no engine was given has
none: what it lacks is capacity, and neither a prompt nor training brings that.
"""

FACTS = frozenset({MeterKind.TERMS, MeterKind.EXPECTED})
"""Meters of facts that have come up and that the weights may not know."""

WEIGHTS = frozenset({MeterKind.BASE, MeterKind.RETENTION})
"""Meters of the weights themselves: no prompt mends those."""

LOSS = 0.05
"""The loss that a gate bounds, where no gain was measured."""


def items_to_see(gain: Figure | None) -> int:
    """Returns how many held-out items show this gain with 80 % power; where none was measured, a loss of 5 points."""
    return paired_items(min(1.0, gain.mean) if gain is not None and gain.mean > 0 else LOSS)


def recommend(meters: Iterable[Meter], sizing: Sizing | None) -> Recommendation:
    """Recommends what to do about a route, by its meters and by what training again would take and bring."""
    seen = {meter.kind: meter.says for meter in meters if meter.signal}
    if not seen or sizing is None:
        return Recommendation(remedy=Remedy.NOTHING, reasons=("no meter has a sustained signal",))
    worse, facts, forced = (seen.keys() & kinds for kinds in (WORSE, FACTS, WEIGHTS))
    reasons = tuple(seen[kind] for kind in MeterKind if kind in seen)
    gain, prompt = sizing.gain, sizing.prompt
    takes = (f"it takes {in_words(sizing.gpu_hours, '.3g')} GPU hours",) if sizing.gpu_hours is not None else ()
    if forced:
        return Recommendation(remedy=Remedy.TRAIN, reasons=tuple(seen[kind] for kind in sorted(forced)), against=takes)
    if worse and prompt is not None and prompt.low > 0:
        said = f"by loradeck decide, a better prompt wins {in_words(prompt, '.1%')} of the items"
        return Recommendation(remedy=Remedy.PROMPT, reasons=(*reasons, said))
    if facts and MeterKind.BAD not in worse:
        said = "facts that change belong into retrieval: weights would be old again"
        return Recommendation(remedy=Remedy.RETRIEVAL, reasons=(*reasons, said), against=takes)
    if not worse:
        said = "answers are not corrected or bad more often than in the first days"
        if MeterKind.REFUSED in seen:
            said = f"requests that no engine was given lack capacity, and {said}"
        return Recommendation(remedy=Remedy.NOTHING, reasons=(said,), against=reasons)
    if gain is None:
        said = "what training again would gain was never measured here; a prompt is cheaper to try"
        return Recommendation(remedy=Remedy.PROMPT, reasons=(*reasons, said))
    told = f"past refreshes won {in_words(gain, '.1%')} of the items"
    if gain.low > 0 and gain.n != 2:  # of two it is the lower one and no bound; of one its gate's own
        return Recommendation(remedy=Remedy.TRAIN, reasons=(*reasons, told), against=takes)
    return Recommendation(remedy=Remedy.PROMPT, reasons=(*reasons, f"{told}: not surely anything"), against=takes)
