"""Plain rules beside the one that is proved: what others do, and what counting every pair does."""

from __future__ import annotations

import math
from collections.abc import Hashable
from statistics import NormalDist

from tests.detection.pair_worlds.pair import MINUTE_S, Pair

MOVES_PER_MISTAKE = 52_000
"""Good moves of which one may be moved back."""


class EveryPair:
    """McNemar's test made sequential: a mixture of bets on the coin of pairs of which exactly one half was bad.

    With k of n such pairs bad on the live half, E is the mean of (2p)^k (2(1-p))^(n-k) over p uniform in (1/2, 1),
    2^(n+1) B(k+1, n-k+1) (1 - I(1/2; k+1, n-k+1)). For whole numbers that is the sum of C(n+1, j) over j ≤ k, divided
    by (n+1) C(n, k). Both are kept as whole numbers, so that nothing is rounded. While the coin is fair, E is a
    martingale which begins at one, and by Ville's inequality it ever comes to a bar in at most one of bar runs.
    """

    def __init__(self, bar: int = MOVES_PER_MISTAKE) -> None:
        """`bar`: the release is moved back when E comes to it."""
        self._bar = bar
        self._all = self._live = 0
        self._sum, self._ways = 1, 1

    @property
    def evidence(self) -> float:
        """E so far. Infinite where it is more than a float holds."""
        try:
            return self._sum / ((self._all + 1) * self._ways)
        except OverflowError:
            return math.inf

    def add(self, pair: Pair) -> None:
        """Counts a pair unless both halves were judged alike."""
        if pair.live_bad == pair.prior_bad:
            return
        n, k = self._all, self._live
        # From the sum over C(n+1, j) to that over C(n+2, j), by Pascal's rule.
        if pair.live_bad:
            self._sum = 2 * self._sum + self._ways * (n + 1) // (k + 1)
            self._ways = self._ways * (n + 1) // (k + 1)
            self._live += 1
        else:
            self._ways = self._ways * (n + 1) // (n + 1 - k)
            self._sum = 2 * self._sum - self._ways
        self._all += 1

    def decides(self) -> bool:
        """Whether E is at the bar."""
        return self._sum >= self._bar * (self._all + 1) * self._ways


class ConversationMinutes:
    """As `EveryPair`, of the first pair in each minute of a conversation. It leaves nobody out."""

    def __init__(self) -> None:
        self._coin = EveryPair()
        self._newest: dict[tuple[int, Hashable], int] = {}

    def add(self, pair: Pair) -> None:
        """Counts a pair unless its conversation has had one in this minute."""
        key, minute = (pair.caller, pair.conversation), int(pair.at_s // MINUTE_S)
        if self._newest.get(key) != minute:
            self._newest[key] = minute
            self._coin.add(pair)

    def decides(self) -> bool:
        """Whether E is at the bar."""
        return self._coin.decides()


class TwoProportions:
    """Compares the shares of bad answers of both releases once a minute, as a canary analysis at an interval does.

    One comparison over the limit moves the release back. That it looks again and again, and that the answers are to
    the same requests, is not paid for.
    """

    def __init__(self, limit: float = NormalDist().inv_cdf(0.975)) -> None:
        """`limit`: standard errors."""
        self._limit = limit
        self._all = self._live = self._prior = self._minute = 0
        self._is_over = False

    def add(self, pair: Pair) -> None:
        """Counts a pair, and before it compares what there was at the end of the minute."""
        if (minute := int(pair.at_s // MINUTE_S)) > self._minute:
            self._minute = minute
            self._is_over = self._is_over or self._z() > self._limit
        self._all += 1
        self._live += pair.live_bad
        self._prior += pair.prior_bad

    def decides(self) -> bool:
        """Whether a comparison was over the limit."""
        return self._is_over

    def _z(self) -> float:
        bad = self._live + self._prior
        if not 0 < bad < 2 * self._all:
            return 0.0
        share = bad / (2 * self._all)
        return (self._live - self._prior) / math.sqrt(2 * self._all * share * (1 - share))


def strict_two_proportions() -> TwoProportions:
    """As `TwoProportions`, where a single look is wrong once in as many good moves as the other rules' are."""
    return TwoProportions(NormalDist().inv_cdf(1 - 1 / MOVES_PER_MISTAKE))
