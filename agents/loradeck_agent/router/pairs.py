"""Pairs of answers to the same units, of a live release and of another one, which was asked again.

Pairs are counted in the order in which their units were admitted, each once it is over, so that neither release looks
better for answering sooner. An answer that is not waited for any longer counts for the live release, and against the
one beneath it. Beside a shadow, which is judged itself, such a pair says nothing, unless the live release had answered
in half of that time.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from loradeck.rules.quality.detection import HORIZON_S
from loradeck.rules.quality.sampling import OPENING, TOGETHER, asked_again_share, waits_for_oldest
from loradeck.schemas.counts import AskedAgain
from loradeck_agent.router.votes import Rate


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an answer. `bad` None: it was not checked. `at_ns`: monotonic, when that was known."""

    failed: bool
    bad: bool | None = None
    at_ns: int = field(default_factory=time.monotonic_ns)


_GOOD, _BAD = Outcome(failed=False, bad=False), Outcome(failed=True, bad=True)


@dataclass(slots=True, eq=False)
class Pair:
    """One unit that is asked twice. `given`: by the live release; `again`: by the other one; None: under way."""

    at_ns: int
    given: Outcome | None = None
    again: Outcome | None = None
    dropped: bool = False
    """It says nothing: the caller left, or the other release was not asked or is no longer there."""
    opening: bool = False
    """It is among the first after the move."""

    @property
    def over(self) -> bool:
        """Whether nothing more is expected of it."""
        return self.dropped or (self.given is not None and self.again is not None)


class Pairs:
    """The pairs of one counter with one other release.

    Args:
        shadow: the other one is judged, or the live release a second time beside such a one.
        clock: monotonic nanoseconds.
        draw: a number from 0 to 1 by chance.
    """

    def __init__(
        self,
        release: str,
        clock: Callable[[], int] = time.monotonic_ns,
        draw: Callable[[], float] = random.random,
        *,
        shadow: bool = False,
    ) -> None:
        self.release = release
        self.shadow = shadow
        self._clock, self._draw = clock, draw
        self._open: deque[Pair] = deque()
        self._rate = Rate()
        self._drawn = self._asked = self._shed = self._pairs = self._checked = 0
        self._failed, self._bad = [0, 0], [0, 0]

    def drawn(self, at_ns: int) -> bool:
        """Tells whether a unit that is admitted now is to be asked again."""
        share = asked_again_share(self._rate.counted(at_ns), self._drawn)
        return share >= 1 or self._draw() < share

    def begin(self, at_ns: int) -> Pair:
        """A unit that was admitted now is asked again. Called in the order of admission."""
        self._count()
        pair = Pair(at_ns, opening=self._drawn < OPENING)
        self._drawn += 1
        self._open.append(pair)
        return pair

    def asked(self) -> None:
        """The other release was asked."""
        self._asked += 1

    def shed(self) -> None:
        """A unit that was drawn is not asked again, since callers come first."""
        self._shed += 1

    def typed(self) -> AskedAgain | None:
        """The counts as they are reported to the hub; None while there are none."""
        self._count()
        if not self._asked and not self._shed:
            return None
        return AskedAgain(
            release=self.release,
            asked=self._asked,
            shed=self._shed,
            pairs=self._pairs,
            failed=(self._failed[0], self._failed[1]),
            checked=self._checked,
            bad=(self._bad[0], self._bad[1]),
        )

    def _count(self) -> None:
        """Counts the pairs that are over, up to the first one that is not."""
        late_ns = self._clock() - HORIZON_S * 10**9
        while self._open:
            pair = self._open[0]
            if not pair.over and pair.at_ns > late_ns:
                over = [one.over for one in islice(self._open, TOGETHER)]
                if self.shadow or waits_for_oldest(self._pairs, over):
                    return
            if not pair.dropped and not (self.shadow and _says_nothing(pair)):
                self._add(pair.given or _GOOD, pair.again or _BAD)
            self._open.popleft()

    def _add(self, given: Outcome, again: Outcome) -> None:
        self._pairs += 1
        self._failed[0] += given.failed
        self._failed[1] += again.failed
        if given.bad is not None and again.bad is not None:
            self._checked += 1
            self._bad[0] += given.bad
            self._bad[1] += again.bad


def _says_nothing(pair: Pair) -> bool:
    """Tells whether a pair with a shadow that is not waited for any longer speaks against nobody: both take long."""
    if pair.given is None:
        return True
    return pair.again is None and pair.given.at_ns - pair.at_ns > HORIZON_S * 10**9 // 2
