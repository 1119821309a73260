"""Detection of a release that has turned bad, by bets that may be looked at after every answer.

The hypothesis is that each unit (a request with the tries after it: `schemas.counts.SecondOfVotes`) is bad with a
probability of at most `limit`, whatever came before it. A bet on a higher share `p` multiplies its wealth by
`p / limit` for a bad unit and by `(1 - p) / (1 - limit)` for a good one. Under the hypothesis no wealth is expected to
grow, so the mean over several bets, an e-process, ever reaches `1 / alpha` with a probability of at most alpha (Ville's
inequality; Ramdas, Grünwald, Vovk and Shafer, "Game-theoretic statistics and safe anytime-valid inference", Statistical
Science 38, 2023).

- Since a move, the bets run on, and alpha is what one move may cost.
- A restarting bet begins again at 1 whenever its wealth has fallen below it, so that a long good past does not hide
  what is bad now (a CUSUM). It lies below the Shiryaev-Roberts e-detector, which takes at least `exp(level)` updates on
  average to reach a level (Shin, Ramdas and Rinaldo, "E-detectors", New England Journal of Statistics in Data Science
  2, 2024).

Units are taken in the order of their admission, and one whose outcome is not known yet counts as good. Answers that
fail are often shorter than those that do not, so that in the order of their ends every release would look bad after a
flip. What is pending can only make the wealth smaller than it will be, so the bounds hold.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from loradeck.schemas.route import LARGEST_SHARE

ODDS = (1.5, 2.5, 4.0, 8.0, 16.0, 40.0)
"""The shares that are betted on, as multiples of the limit's odds."""

HORIZON_S = 60
"""Seconds after its admission in which a unit's outcome is waited for. After them it counts as good."""

KEPT_S = HORIZON_S + 15
"""Seconds for which units are kept at most where nobody asks."""

FALSE_FLAGS_A_WEEK = 1.0
"""False flags that a whole fleet may show in a week."""

SMALLEST_FLEET = 100
"""Pointers that a fleet is taken to have at least."""

FALSE_ROLLBACK_A_MOVE = 1 / 52_000
"""The probability with which a good release may be rolled back after its move: once a year at 1,000 moves a week."""

_WEEK_S = 7 * 86_400
_FLAGGING = 3  # bad answers, errors and overdue answers
_ROLLING_BACK = 2  # bad answers and errors

ROLLBACK_LEVEL = math.log(_ROLLING_BACK / FALSE_ROLLBACK_A_MOVE)
"""Evidence since a forward move, in nats, at which a release is rolled back."""


ALERT_ONLY_PART = 0.1
"""The part of the fleet's false flags that the figures on which no guard acts share: late tokens, and checks that only
alert. Bad answers and errors have the rest, so that what is added there costs them a tenth of a nat and no more.
"""


def flag_level(pointers: int) -> float:
    """Evidence, in nats, at which a live release is breached in a fleet of so many pointers.

    Each of them is updated at most once a second for each of three figures.
    """
    return _level(pointers, _FLAGGING, 1 - ALERT_ONLY_PART)


def alert_level(pointers: int, figures: int) -> float:
    """Evidence, in nats, at which one of so many figures that only alert flags a live release; see `flag_level`."""
    return _level(pointers, figures, ALERT_ONLY_PART)


def _level(pointers: int, figures: int, part: float) -> float:
    return math.log(max(pointers, SMALLEST_FLEET) * _WEEK_S * figures / (FALSE_FLAGS_A_WEEK * part))


SPARE = 3.0
"""Evidence, in nats, that is kept of a live release beyond its level. Without a ceiling ten minutes of an outage were
evidence for the eight hours after it. A bet that is worth less stays a fair one, so the bounds hold.
"""


HOURS = 14 * 24
"""Hours of a route's history from which the share that is usual there is taken."""

_FEWEST_HOURS = 24
_FEWEST_UNITS = 50


def usual_share(hours: Iterable[tuple[int, int]]) -> float | None:
    """The share that is usual on a route: the 95th percentile of its hours' shares, rounded up to 0.1 %.

    `hours`: of each hour, how many were bad, and how many there were.

    Returns:
        None: too few hours had enough units to say.
    """
    shares = sorted(bad / n for bad, n in hours if n >= _FEWEST_UNITS)
    if len(shares) < _FEWEST_HOURS:
        return None
    return min(math.ceil(1000 * shares[math.ceil(0.95 * len(shares)) - 1]) / 1000, LARGEST_SHARE)


def flag_limit(usual: float) -> float:
    """The share above which a release is flagged, from the one that is usual on its route or promised there."""
    return max(2 * usual, usual + 0.01)


def rollback_limit(usual: float) -> float:
    """The share above which a release is rolled back, from the one that is usual on its route or promised there."""
    return max(0.05, usual + 0.04)


@cache
def _bets(limit: float) -> tuple[tuple[float, float], ...]:
    """Lists what a good unit and a bad one add to each bet's wealth, in nats."""
    odds = limit / (1 - limit)
    shares = [m * odds / (1 + m * odds) for m in ODDS]
    return tuple((math.log((1 - p) / (1 - limit)), math.log(p / limit)) for p in shares)


OVERDUE_LIMIT = flag_limit(0.01)
"""Share of answers that are overdue from which a release is flagged. Of a hundred usual ones one takes longer than the
99th percentile, and fewer take 1.5 times as long (`schemas.counts.SecondsOverdue`).
"""


SLOW_LIMIT = flag_limit(0.05)
"""Share of answers beyond a promised time from which a release is slow: twice what a 95th percentile allows."""


def late(times: Sequence[int], bounds_ms: Sequence[int], promised_ms: int) -> tuple[int, int]:
    """Returns how many answers a histogram of times has, and how many of them surely took longer than promised.

    `bounds_ms`: the upper bounds of its buckets; the last one is unbounded. Those in the bucket of the promise count as
    in time.
    """
    shorter = sum(bound < promised_ms for bound in bounds_ms)
    return sum(times), sum(times[shorter + 1 :])


class Limits(NamedTuple):
    """The shares and times that a route's release is judged by, usual or promised; None: nothing is promised.

    Times are milliseconds that 95 % of streamed answers are to keep.
    `noticed`: of each check in `watched`, which makes no answer bad. `corrected`: of the feedback on answers.
    `token_ms`: between two tokens of one answer. `judged`: of what a judge is asked of, where not as `noticed`.
    """

    bad: float
    errors: float
    ttft_ms: int | None = None
    token_ms: int | None = None
    noticed: float = 0.02
    watched: tuple[str, ...] = ()
    corrected: float | None = None
    judged: float | None = None


class Detector:
    """The evidence that more than a share `limit` (between 0 and 1) of a release's units are bad.

    Args:
        limit: of the share.
        restarting: for a release that has been live for long. Otherwise the evidence is taken since a move.
        ceiling: evidence, in nats, beyond which none is kept.
    """

    __slots__ = ("_begun", "_folded", "_seconds", "ceiling", "limit", "restarting")

    def __init__(self, limit: float, *, restarting: bool, ceiling: float = math.inf) -> None:
        if not 0 < limit < 1:
            raise ValueError(f"the limit of a share lies between 0 and 1, not at {limit}")
        self.limit = limit
        self.restarting = restarting
        self.ceiling = ceiling
        self._folded = (0.0,) * len(ODDS)
        self._begun: tuple[int, ...] | None = None
        """Second in which each bet of `_folded` has begun; None: nothing was folded yet."""
        self._seconds: dict[int, tuple[int, int]] = {}
        """Second of admission -> its units, and how many of them are known to be bad."""

    def add(self, second: int, units: int, bad: int) -> None:
        """Adds units that were admitted in a second, and units of that second that have turned out to be bad.

        More bad ones than it has of that second were admitted before it began, and are passed over.
        """
        known, known_bad = self._seconds.get(second, (0, 0))
        self._seconds[second] = (known + units, min(known_bad + bad, known + units))
        if second - next(iter(self._seconds)) > KEPT_S:  # nobody may ask for hours
            self._fold(max(self._seconds) - 1)  # a second more is kept than `evidence` would

    def evidence(self, now: int) -> float:
        """The evidence at second `now`, in nats, or a bound above it where that is below one.

        It is the logarithm of the best bet's wealth over the number of bets, which is at most their mean.
        """
        self._fold(now)
        most = max(self._folded)
        if self.restarting:
            most = max(most, 0.0)
        gain = _bets(self.limit)[-1][1] * sum(bad for _, bad in self._seconds.values())
        if most + gain > 1:
            wealth = self._folded
            for second in sorted(self._seconds):
                wealth = self._after(wealth, *self._seconds[second])
                most = max(most, *wealth)
        else:
            most += gain
        return most - math.log(len(ODDS))

    def reaches(self, level: float, now: int) -> bool:
        """Tells whether the evidence at second `now` is at least `level` nats, of which SPARE more are kept."""
        self.ceiling = level + SPARE
        return self.evidence(now) >= level

    def change_point(self, now: int) -> int | None:
        """Returns the second since which the units speak against the release; None: none does.

        It is the second in which the bet has begun that `evidence` is taken from, which for a CUSUM is the most likely
        one in which the share has changed (Page, "Continuous inspection schemes", Biometrika 41, 1954; Hinkley,
        "Inference about the change-point in a sequence of random variables", Biometrika 57, 1970).
        """
        self._fold(now)
        wealth, begun = self._folded, self._begun
        most, since = max(wealth), begun[wealth.index(max(wealth))] if begun is not None else None
        for second in sorted(self._seconds):
            begun = self._begin(wealth, begun, second)
            wealth = self._after(wealth, *self._seconds[second])
            if max(wealth) > most:
                most, since = max(wealth), begun[wealth.index(max(wealth))]
        return since if most > 0 else None

    def _fold(self, now: int) -> None:
        """Takes the seconds whose outcomes are not waited for any more into the wealth."""
        for second in sorted(second for second in self._seconds if second < now - HORIZON_S):
            self._begun = self._begin(self._folded, self._begun, second)
            self._folded = self._after(self._folded, *self._seconds.pop(second))

    def _begin(self, wealth: tuple[float, ...], begun: tuple[int, ...] | None, second: int) -> tuple[int, ...]:
        """Returns when each bet has begun, once it has taken a second: one without wealth begins with that second."""
        if begun is None:
            return (second,) * len(ODDS)
        if not self.restarting:
            return begun
        return tuple(second if w <= 0 else since for w, since in zip(wealth, begun, strict=True))

    def _after(self, wealth: tuple[float, ...], units: int, bad: int) -> tuple[float, ...]:
        good = units - bad
        if self.restarting:
            wealth = tuple(w if w > 0 else 0.0 for w in wealth)
        most = self.ceiling + math.log(len(ODDS))
        return tuple(min(w + good * g + bad * b, most) for w, (g, b) in zip(wealth, _bets(self.limit), strict=True))


def evidence_since_move(units: tuple[int, int], limit: float) -> float:
    """The evidence, in nats, of the bad units since a move, and of all of them, whose order changes nothing.

    `limit`: as of `Detector`.
    """
    detector = Detector(limit, restarting=False)
    detector.add(0, units[1], units[0])
    return detector.evidence(0)
