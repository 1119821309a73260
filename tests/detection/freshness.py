"""How often freshness meters have a signal: on days that are alike, and on days that change.

Each series is drawn from its number, so that a test draws the first of them again. The rules themselves judge them.
`python -m tests.detection.freshness` draws all of them, and writes docs/freshness.json and the table of
docs/freshness.md; it takes a minute or two for each 100 series.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from loradeck.rules.clocks import DAY_MS
from loradeck.rules.quality.freshness import (
    RECENT_DAYS,
    Day,
    Histogram,
    Measure,
    against_the_first,
    compared,
    distance,
    largest_rise,
    of_share,
)
from loradeck.rules.quality.reference_days import REFERENCE_DAYS, Stay, Window, answered, asked
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.counts import CLASSES, WORDS
from loradeck.schemas.freshness import MeterKind

YEAR = REFERENCE_DAYS + 365
CHANGES_AT = REFERENCE_DAYS + 28
"""The day of a change: the reference and four weeks are before it."""

VOCABULARY, WORDS_A_REQUEST = 20_000, 20

FORTNIGHT = 14

Draw = Callable[[Generator, int], list[Day]]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Days of one kind. `within`: days after the change in which a signal counts as seen; None: none is right."""

    name: str
    draw: Draw
    share: bool = True
    within: int | None = None

    def seen(self, seed: int) -> bool:
        """Whether a series of days has a signal: ever in its year, or within the days after its change."""
        days = self.draw(np.random.default_rng(seed), YEAR if self.within is None else CHANGES_AT + self.within)
        first = REFERENCE_DAYS + RECENT_DAYS if self.within is None else CHANGES_AT + 1
        return any(_signal(days[:look], share=self.share) for look in range(first, len(days) + 1))


def _signal(days: list[Day], *, share: bool) -> bool:
    return compared(MeterKind.BAD, days, "", live=range(len(days)), share=share).signal


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """Days of a route on which another release is promoted every fortnight. `fresh_rows`: its rows are a day old.

    The first promote of a series is on its own day, and so its number says how far that is from the change.
    """

    name: str
    asked: Callable[[Generator, int], list[Histogram]] | None = None
    answered: Draw | None = None
    measure: Measure = distance
    fresh_rows: bool = False
    within: int | None = None

    def seen(self, seed: int) -> bool:
        """As `Kind.seen`."""
        rng, days = np.random.default_rng(seed), YEAR if self.within is None else CHANGES_AT + self.within
        looks = range(REFERENCE_DAYS + RECENT_DAYS if self.within is None else CHANGES_AT + 1, days + 1)
        moves = [-1, *range(seed % FORTNIGHT + 1, days, FORTNIGHT)]
        if self.answered is not None:
            counted = self.answered(rng, days)
            return any(of_share(MeterKind.BAD, counted, "", windows=_windows(moves, look)).signal for look in looks)
        assert self.asked is not None
        counts, by_start = self.asked(rng, days), defaultdict[int, list[range]](list)
        for look in looks:
            rows = next(move for move in reversed(moves) if move <= look) - 1 if self.fresh_rows else None
            window, _ = _windows(moves, look, rows)
            live = window.live(range(look))
            by_start[live.start].append(live)
        for start, lives in by_start.items():
            found = against_the_first(counts[start : lives[-1].stop], self.measure)
            for live in lives:
                if compared(MeterKind.INPUTS, found[: len(live)], "", live=live, share=False).signal:
                    return True
        return False


def _windows(moves: Sequence[int], look: int, rows: int | None = None) -> tuple[Window, Window]:
    """The windows of a route with moves on these days, at the beginning of a day."""
    stays = [Stay(str(number), day * DAY_MS) for number, day in enumerate(moves) if day <= look]
    rows_ms = None if rows is None else rows * DAY_MS
    return asked(stays, rows_ms, look * DAY_MS), answered(stays, look * DAY_MS)


def shares(a_day: int, share: Callable[[Generator, int], np.ndarray]) -> Draw:
    """Days of so many requests, of which `share` gives the share that is bad, day by day."""

    def draw(rng: Generator, days: int) -> list[Day]:
        bad = rng.binomial(a_day, np.clip(share(rng, days), 0, 1))
        return [Day(day, int(k) / a_day, a_day) for day, k in enumerate(bad)]

    return draw


def alike(level: float) -> Callable[[Generator, int], np.ndarray]:
    return lambda rng, days: np.full(days, level)


def weekends(level: float, other: float) -> Callable[[Generator, int], np.ndarray]:
    return lambda rng, days: np.where(np.arange(days) % 7 >= 5, other, level)


def wandering(level: float, spread: float, like: float) -> Callable[[Generator, int], np.ndarray]:
    """Days that are like the day before: an autoregressive share of this spread around its level."""

    def of(rng: Generator, days: int) -> np.ndarray:
        steps, value, found = rng.normal(size=days + 100), 0.0, []
        for step in steps:
            value = like * value + (1 - like**2) ** 0.5 * step
            found.append(level + spread * value)
        return np.array(found[100:])

    return of


def an_outage(level: float) -> Callable[[Generator, int], np.ndarray]:
    """One day of every eight weeks is bad by three fifths."""
    return lambda rng, days: np.where(np.arange(days) % 56 == 40, 0.6, level)


def jump(level: float, to: float) -> Callable[[Generator, int], np.ndarray]:
    return lambda rng, days: np.where(np.arange(days) >= CHANGES_AT, to, level)


def slow(level: float, a_day: float) -> Callable[[Generator, int], np.ndarray]:
    """A share that rises by so much every day from the change on."""
    return lambda rng, days: level + a_day * np.maximum(0, np.arange(days) - CHANGES_AT)


def inputs(a_day: int, *, rising: bool = False, **changes: float) -> Draw:
    """How far the days of `words` are from the first ones. `rising`: by the meter of new words, not the distance."""
    measure, drawn = largest_rise if rising else distance, words(a_day, **changes)
    return lambda rng, days: against_the_first(drawn(rng, days), measure)


def words(
    a_day: int, *, topic: float = 0.0, term: float = 0.0, weekly: float = 0.0, daily: float = 0.0
) -> Callable[[Generator, int], list[Histogram]]:
    """Days of requests of twenty words of a vocabulary by Zipf's law, in buckets as nodes count them.

    Args:
        topic: share of requests that are about another topic from the change on: another order of the words.
        term: share of requests with one new word from then on.
        weekly: share of the other topic on weekends, from the beginning.
        daily: by how much the share of the other topic rises on each day from the change on.
    """

    def draw(rng: Generator, days: int) -> list[Histogram]:
        bucket = rng.integers(0, WORDS, VOCABULARY)
        usual = 1 / np.arange(1, VOCABULARY + 1)
        other = rng.permutation(usual)
        has = [_has_bucket(bucket, of / of.sum()) for of in (usual, other)]
        new, found = int(rng.integers(WORDS)), []
        for day in range(days):
            since = day - CHANGES_AT
            share = topic + daily * since if since >= 0 else weekly if day % 7 >= 5 else 0.0
            k = rng.binomial(a_day, share)
            counts = rng.binomial(a_day - k, has[0]) + rng.binomial(k, has[1])
            if day >= CHANGES_AT:
                counts[new] = min(a_day, counts[new] + rng.binomial(a_day, term))
            found.append(Histogram(day, counts.tolist(), a_day))
        return found

    return draw


def _has_bucket(bucket: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The share of requests that have a word of each bucket."""
    mass = np.bincount(bucket, weights=probability, minlength=WORDS)
    return 1 - (1 - mass) ** WORDS_A_REQUEST


def classes(a_day: int, moved: float) -> Draw:
    """Days of answers in five classes, one of which takes so many points of another one's from the change on."""

    def draw(rng: Generator, days: int) -> list[Day]:
        found = []
        for day in range(days):
            by = moved if day >= CHANGES_AT else 0.0
            counts = rng.multinomial(a_day, [0.4 - by, 0.25 + by, 0.2, 0.1, 0.05]).tolist()
            found.append(Histogram(day, counts + [0] * (CLASSES - len(counts)), a_day))
        return against_the_first(found, distance)

    return draw


KINDS = (
    Kind(name="share: 2 % bad, 400 a day", draw=shares(400, alike(0.02))),
    Kind(name="share: 2 % bad, 60 a day", draw=shares(60, alike(0.02))),
    Kind(name="share: 2 % bad, 6 % at weekends", draw=shares(400, weekends(0.02, 0.06))),
    Kind(name="share: 2 % bad, one day of eight weeks 60 %", draw=shares(400, an_outage(0.02))),
    Kind(name="share: 5 % ± 1 bad, half like the day before", draw=shares(2000, wandering(0.05, 0.01, 0.5))),
    Kind(name="share: 5 % ± 1 bad, four fifths like the day before", draw=shares(2000, wandering(0.05, 0.01, 0.8))),
    Kind(name="inputs: alike, 400 a day", draw=inputs(400), share=False),
    Kind(name="inputs: a fifth of another topic at weekends", draw=inputs(400, weekly=0.2), share=False),
    Kind(name="terms: alike, 400 a day", draw=inputs(400, rising=True), share=False),
    Kind(name="classes: alike, 400 a day", draw=classes(400, 0.0), share=False),
    *(
        Kind(name=name, draw=draw, share=share, within=within)
        for name, draw, share in (
            ("share: 2 to 4 % bad, 400 a day", shares(400, jump(0.02, 0.04)), True),
            ("share: 2 to 4 % bad, 4,000 a day", shares(4000, jump(0.02, 0.04)), True),
            ("share: 2 to 8 % bad, 400 a day", shares(400, jump(0.02, 0.08)), True),
            ("share: 10 to 20 % corrected, 60 callers a day", shares(60, jump(0.1, 0.2)), True),
            ("share: 10 to 30 % corrected, 60 callers a day", shares(60, jump(0.1, 0.3)), True),
            ("inputs: 10 % of another topic, 400 a day", inputs(400, topic=0.1), False),
            ("inputs: 30 % of another topic, 400 a day", inputs(400, topic=0.3), False),
            ("terms: a new word in 2 % of requests, 400 a day", inputs(400, term=0.02, rising=True), False),
            ("terms: a new word in 5 % of requests, 400 a day", inputs(400, term=0.05, rising=True), False),
            ("classes: 5 points move, 400 a day", classes(400, 0.05), False),
            ("classes: 15 points move, 400 a day", classes(400, 0.15), False),
        )
        for within in (7, 14, 28)
    ),
    Promoted(name="promoted, share: 2 % bad, 400 a day", answered=shares(400, alike(0.02))),
    Promoted(name="promoted, inputs: alike, 400 a day", asked=words(400)),
    Promoted(name="promoted, terms: alike, 400 a day", asked=words(400), measure=largest_rise),
    Promoted(name="promoted with new rows, inputs: alike, 400 a day", asked=words(400), fresh_rows=True),
    Promoted(
        name="promoted with new rows, terms: alike, 400 a day",
        asked=words(400),
        measure=largest_rise,
        fresh_rows=True,
    ),
    Promoted(name="promoted, share: 2 to 8 % bad, 400 a day", answered=shares(400, jump(0.02, 0.08)), within=14),
    Promoted(
        name="promoted, share: 2 % bad and 6 points more in 90 days, 400 a day",
        answered=shares(400, slow(0.02, 0.06 / 90)),
        within=90,
    ),
    Promoted(
        name="promoted, inputs: another topic, 15 points in 90 days, 400 a day",
        asked=words(400, daily=0.15 / 90),
        within=90,
    ),
    Promoted(name="promoted, inputs: 10 % of another topic, 400 a day", asked=words(400, topic=0.1), within=14),
    Promoted(
        name="promoted with new rows, inputs: 10 % of another topic, 400 a day",
        asked=words(400, topic=0.1),
        fresh_rows=True,
        within=14,
    ),
)

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- written by python -m tests.detection.freshness -->", "<!-- /written -->"
AGAIN = 5
"""Series of each kind that a test draws again."""


def main(series: int) -> None:
    """Draws so many series of each kind, and writes down how many had a signal."""
    write([measured(kind, series) for kind in KINDS])


def measured(kind: Kind | Promoted, series: int) -> dict[str, object]:
    """The row of a kind of days."""
    seen = [kind.seen(seed) for seed in range(series)]
    row = {"name": kind.name, "within": kind.within, "series": series, "seen": sum(seen)}
    print(row, flush=True)
    return row | {"first": sum(seen[:AGAIN])}


def write(rows: list[dict[str, object]]) -> None:
    """Writes the rows down, and the table into the document."""
    (DOCS / "freshness.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    head, _, rest = (DOCS / "freshness.md").read_text().partition(BEGIN)
    text = f"{head}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.partition(END)[2]}"
    (DOCS / "freshness.md").write_text(text)


def table(rows: list[dict[str, object]]) -> str:
    """The table of docs/freshness.md: shares of series with a signal, and their 95 % intervals by Wilson."""
    lines = ["| days | counted | signals | share, 95 % |", "|---|---|---|---|"]
    for row in rows:
        seen, n = int(str(row["seen"])), int(str(row["series"]))
        low, high = wilson(seen, n)
        counted = "in a year, falsely" if row["within"] is None else f"within {row['within']} days of the change"
        lines.append(f"| {row['name']} | {counted} | {seen} of {n} | {seen / n:.1%} ({low:.1%} to {high:.1%}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
