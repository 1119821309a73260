"""A route and what changes on it: the parameters of its traffic. Sources are in the package's docstring."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

DAY = 86_400.0
HOUR = 3_600.0
WEEK = 7 * DAY


class Why(enum.IntEnum):
    """Ground truth of a request: what its bad, failed or late answer comes from. NONE: nothing unusual."""

    NONE = 0
    RELEASE = 1
    CALLER = 2
    NODE = 3
    ASKED = 4
    DRIFT = 5


class Effect(enum.Enum):
    """What a change does to answers."""

    BAD = "bad"
    """A share `to` of the answers is bad. Their durations stay as they are."""
    RUNAWAY = "runaway"
    """A share `to` runs on for a median of 120 s and is bad."""
    HUNG = "hung"
    """Nothing that has not ended by then ends, and nothing that comes later."""
    TOKENS = "tokens"
    """Answers have three times as many tokens."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change at a moment. `at`, `end`: seconds of the route's time. `to`: a share of the answers that it concerns.

    `cause` RELEASE concerns everything, CALLER and NODE what `target` (a number) asks or answers. With ASKED, `extent`
    of the requests ask something new, and what is bad of them makes `to` of all requests. `pace`: what BAD turns bad
    takes so many times as long (below 1: shorter).
    """

    at: float
    effect: Effect
    cause: Why = Why.RELEASE
    target: int = 0
    to: float = 0.3
    extent: float = 0.5
    pace: float = 1.0
    end: float = math.inf

    def __post_init__(self) -> None:
        if self.cause in (Why.NONE, Why.DRIFT):
            raise ValueError(f"{self.cause.name} causes no change")
        if not 0 < self.to <= 1 or not 0 < self.extent <= 1:
            raise ValueError("to and extent are shares above 0, at most 1")
        if not self.pace > 0:
            raise ValueError("answers take some time")
        if not self.at < self.end:
            raise ValueError("a change ends after its beginning")
        if self.cause is Why.ASKED and self.effect is not Effect.BAD:
            raise ValueError("what is asked changes only how many answers are bad")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A lognormal body with a Pareto tail. `median` in seconds, `sigma` of the logarithm; of the answers a share `tail`
    follows the Pareto distribution with the index `index`."""

    median: float
    sigma: float
    tail: float
    index: float


@dataclass(frozen=True, kw_only=True)
class Route:
    """A tenant's route. The same route has the same traffic; routes with another `tenant` or `seed` are independent.

    `rate`: requests a second without retries, on the average of a week. `largest`: share of the largest caller; None:
    what Zipf's law gives it. `is_one_key`: all callers use one key and send no `user`, so that they are seen as caller
    0. `share`: bad answers on the average, without broken integrations. `sigma_quarter`, `sigma_hours`: standard
    deviations of their log-odds over 15 minutes and two hours, for all callers together; `sigma_own`: over two hours
    for each of the largest callers by itself; `sigma_callers`: between callers, for good. `first`: seconds to the first
    token; `rest`: from it to the end of a streamed answer, and `whole` to that of an answer that comes whole. Raises
    ValueError where a value has no meaning.
    """

    rate: float
    tenant: int = 0
    seed: int = 0
    callers: int = 200
    largest: float | None = None
    zipf: float = 1.2
    is_one_key: bool = False
    run: float = 1.5
    nodes: int = 1
    burst: float = 1.2
    sigma_load: float = 0.27
    has_rhythm: bool = True
    share: float = 0.01
    sigma_quarter: float = 0.0
    sigma_hours: float = 0.0
    sigma_own: float = 0.0
    sigma_callers: float = 0.7
    integrations_a_month: float = 1.0
    errors: float = 0.005
    incidents_a_month: float = 2.0
    templates: float = 0.05
    streamed: float = 0.6
    first: Spread = field(default_factory=lambda: Spread(median=0.3, sigma=0.6, tail=0.02, index=1.8))
    rest: Spread = field(default_factory=lambda: Spread(median=4.0, sigma=0.86, tail=0.02, index=2.2))
    whole: Spread = field(default_factory=lambda: Spread(median=2.5, sigma=0.85, tail=0.02, index=2.2))
    changes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        if not self.rate > 0 or self.callers < 1 or self.nodes < 1:
            raise ValueError("a route has a rate, callers and nodes")
        if self.largest is not None and not 1 / self.callers <= self.largest <= 1:
            raise ValueError("the largest caller has at least an equal share, and at most everything")
        if not 0 < self.share < 1 or not 0 <= self.errors < 1:
            raise ValueError("shares of bad and failed answers lie between 0 and 1")
        if self.burst < 1 or self.run < 1:
            raise ValueError("burst and run are 1 where requests come independently, and above it otherwise")
        for change in self.changes:
            self._check(change)

    def _check(self, change: Change) -> None:
        if change.cause is Why.CALLER and (self.is_one_key or not 0 <= change.target < self.callers):
            raise ValueError(f"caller {change.target} cannot be told apart here")
        if change.cause is Why.NODE and not 0 <= change.target < self.nodes:
            raise ValueError(f"the route has no node {change.target}")
        if change.effect is Effect.BAD and change.to < self.share:
            raise ValueError("a change makes no more answers good")
        if change.cause is Why.ASKED and change.to > self.share + change.extent * (1 - self.share):
            raise ValueError("so few new questions cannot make so many answers bad")

    @property
    def slice_s(self) -> float:
        """Seconds that are generated at once: a day of slow routes, and an hour of the others."""
        return DAY if self.rate <= 2 else HOUR
