"""What one router has reported of one stint, and how far its clock is from the hub's."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from loradeck.hub.progress.request_counts import LARGEST
from loradeck.hub.progress.steps import KEPT_STEPS, UnitSums
from loradeck.rules.quality.detection import KEPT_S
from loradeck.rules.quality.health import Units
from loradeck.schemas.counts import STEP_S, SecondOfVotes, StepOfCaller
from loradeck.schemas.judge import JUDGE

MOST_LATE = 600
"""Seconds that were forgotten of which the newest votes are kept of one router and stint."""


MOST_BY_CALLER = 512
"""Sums by step and bin of callers that are kept of one router and stint; the oldest are forgotten first."""


COMPARED_S = 600
"""Seconds for which a report tells how far two clocks are apart."""


@dataclass(slots=True)
class RouterClock:
    """How far a router's monotonic clock is from the hub's, by its reports.

    A report comes some time after the newest second in it, and never before. So the nearest upper bound is the smallest
    difference that was seen of late, and one report that was late is corrected by the next. What is older than twice
    COMPARED_S does not count, since monotonic clocks run apart by a second or two a day.
    """

    boot: str
    offset: int | None = None
    """Seconds from the router's clock to the hub's; None: no report has told."""
    _since: int = 0
    _lowest: int | None = None
    _before: int | None = None
    """The lowest of the COMPARED_S before `_since`."""

    def compare(self, now: int, newest: int) -> None:
        """Compares the clocks by a report.

        Args:
            now: the hub's second in which it comes.
            newest: the newest of the router's seconds in the report.
        """
        if self._lowest is None or now - self._since > 2 * COMPARED_S:
            self._since, self._lowest, self._before = now, now - newest, None
        elif now - self._since > COMPARED_S:
            self._since, self._lowest, self._before = now, now - newest, self._lowest
        self._lowest = min(self._lowest, now - newest)
        self.offset = self._lowest if self._before is None else min(self._lowest, self._before)


class ReportedSecond(NamedTuple):
    """The newest votes on a second. `at`: the hub's second in which it counts, which stays as it was first."""

    at: int
    votes: SecondOfVotes


@dataclass(slots=True)
class RouterReports:
    """The reports of one router on one stint."""

    node: str
    boot: str
    seconds: dict[int, ReportedSecond] = field(default_factory=dict)
    """Second of the router -> its newest votes."""
    overdue: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """Second of the router -> the hub's second, and the newest of the overdue units and of those decided in it."""
    late: dict[int, SecondOfVotes] = field(default_factory=dict)
    """Forgotten second of which something became known since -> its newest votes, those first that were heard first."""
    newest: int = -1
    """The newest second that was reported."""
    noticed: dict[tuple[int, str], int] = field(default_factory=dict)
    """(second, check) -> the units that the check has noticed, by the newest report."""
    asked: dict[tuple[int, str], Units] = field(default_factory=dict)
    """(second, check) -> likewise, of a check that sees only some of the units: the noticed ones, and all of these."""
    sampling: set[str] = field(default_factory=lambda: {JUDGE})
    """The checks that see only some of the units here: judges, and what the router says so of."""
    callers: int = 0
    by_caller: dict[tuple[int, int], tuple[int, UnitSums]] = field(default_factory=dict)
    """(step of the router, bin of callers) -> the hub's second in which the step began, and the newest sums."""

    def count_callers(self, rows: Iterable[StepOfCaller], offset: int, now: int) -> None:
        """Takes the newest sums by step and bin of callers. `offset`: seconds from the router's clock to the hub's."""
        for step, caller, units, failed, checked, bad in rows:
            known = self.by_caller.get((step, caller), (0, UnitSums()))[1]
            sums = UnitSums(units, failed, checked, bad)
            grew = all(new >= old for new, old in zip(sums, known, strict=True))
            if grew and bad <= checked <= units <= LARGEST and failed <= units:
                self.by_caller[step, caller] = step * STEP_S + offset, sums
        old = now - KEPT_STEPS * STEP_S
        kept = [key for key, (at, _) in self.by_caller.items() if old <= at <= now + STEP_S]
        self.by_caller = {key: self.by_caller[key] for key in sorted(kept)[-MOST_BY_CALLER:]}

    def counted(self, second: int, since: int) -> ReportedSecond | None:
        """Returns the newest votes on a router's second, if they count in a second of the hub from `since` on."""
        reported = self.seconds.get(second)
        return reported if reported is not None and reported.at >= since else None

    def put(self, second: int, reported: ReportedSecond) -> None:
        """Keeps the newest votes on a second, of forgotten ones of the last MOST_LATE."""
        if second >= self.newest - KEPT_S:
            self.seconds[second] = reported
            return
        self.late.pop(second, None)
        self.late[second] = reported.votes
        if len(self.late) > MOST_LATE:
            del self.late[next(iter(self.late))]

    def forget(self) -> None:
        """Forgets the seconds whose outcomes are not waited for any more. What is still reported of them is `late`."""
        if self.seconds:
            oldest = max(self.seconds) - KEPT_S
            for second in [second for second in self.seconds if second < oldest]:
                del self.seconds[second]
            for noted in (self.noticed, self.asked):
                for key in [key for key in noted if key[0] not in self.seconds]:
                    del noted[key]
