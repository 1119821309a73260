"""Samples of a router: which answers it checks, and which requests it asks again of another release.

For a day after a forward move the release beneath the live one (its prior) answers a sample of the same requests, so
that the live release can be compared with something that is asked the same at the same time (a reverse shadow). A
candidate may do so before any caller gets it (a shadow). Their answers reach nobody.

And of bad answers it may keep a few, for people to read.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from loradeck.rules.clocks import HOUR_MS, MINUTE_MS
from loradeck.schemas.trace import SAMPLES

CHECKED_WHOLLY_S = 3600.0
"""Seconds after a move in which every answer is checked."""

CHECKED_A_SECOND = 50.0
"""Answers of a route that are checked each second at least, later on."""

OPENING = 200
"""Requests after a move that are all asked again, in each router, and that long answers do not hold up.

A release that is bad in three answers of ten is told from one that is bad in one of a hundred by some 75 of them.
"""

ASKED_AGAIN = 0.1
"""Share of a release's later requests that are asked again, at most, where that is more than ASKED_AGAIN_A_SECOND."""

ASKED_AGAIN_A_SECOND = 1.0
"""Later requests that may be asked again each second on a route with few."""

TWICE = 0.2
"""Share of a shadow's requests that the live release is asked a second time, for the noise of asking twice (A/A)."""

MOST_UNDER_WAY = 500
"""Callers' answers under way on one engine from which on nothing is asked again there."""

_FEW_AT_ONCE = 4
_LATE = 3

TOGETHER = 20
"""Pairs that are looked at together when the oldest of them is not over (`waits_for_oldest`)."""


def checked_share(sample: float, since_move_s: float, rate: float, *, candidate: bool) -> float:
    """The share of answers (0 to 1) that are checked on a route.

    Args:
        sample: what its settings say; 0: nothing is checked, whatever happens.
        since_move_s: seconds since its pointer moved.
        rate: its requests a second.
        candidate: a candidate is out.
    """
    if sample <= 0 or candidate or since_move_s < CHECKED_WHOLLY_S:
        return 1.0 if sample > 0 else 0.0
    return max(sample, min(1.0, CHECKED_A_SECOND / max(rate, 1e-9)))


MODELS_SHARE = 0.05
"""Processor seconds a second that checks by models (plug-ins, and what a judge is shown) take on a node, in the long
run."""

_SAVED_S = 3.0
_FIRST_COST_S = 0.1
_LEARNT = 0.1


class ModelTime:
    """The processor time that checks by models have on a node: a bucket into which MODELS_SHARE of a core flows.

    A check is let in while the bucket has more than those under way will take, each by what plug-ins have cost of late
    (texts that a judge is shown cost far less), and is charged what it was measured to cost. All times in
    seconds.
    """

    def __init__(self, now: float) -> None:
        self._left, self._at, self._cost, self._under_way = _SAVED_S, now, _FIRST_COST_S, 0

    def has_room(self, now: float) -> bool:
        """Tells whether there is time for one more check by a model."""
        self._left = min(_SAVED_S, self._left + MODELS_SHARE * max(0.0, now - self._at))
        self._at = now
        return self._left > self._under_way * self._cost

    def take(self, now: float) -> bool:
        """Lets one check in, which is under way until `over`. Returns whether there was room."""
        if not self.has_room(now):
            return False
        self._under_way += 1
        return True

    def over(self) -> None:
        """Takes note that a check which was let in is over, or was not done."""
        self._under_way -= 1

    def charge(self, seconds: float, *, of_plugin: bool) -> None:
        """Takes from the bucket the processor time that a check was measured to cost."""
        self._left -= seconds
        if of_plugin:
            self._cost += _LEARNT * (seconds - self._cost)


def asked_again_share(rate: float, drawn: int) -> float:
    """The share (0 to 1) of a release's requests that are asked again.

    Args:
        rate: its requests a second.
        drawn: those that were drawn since the move.
    """
    if drawn < OPENING:
        return 1.0
    return min(1.0, max(ASKED_AGAIN, ASKED_AGAIN_A_SECOND / max(rate, 1e-9)))


class Arm(StrEnum):
    """Who is asked a request again while a shadow is out."""

    CANDIDATE = "candidate"
    LIVE = "live"


def shadowed(permille: int, draw: float) -> Arm | None:
    """Says who is asked a request again, for a shadow of this share in thousandths; None: nobody.

    `draw`: between 0 and 1, at random for each request.
    """
    share = permille / 1000
    if draw >= share:
        return None
    return Arm.LIVE if draw < TWICE * share else Arm.CANDIDATE


def may_ask_again(paying: int, again: int, waiting: int | None, *, share: float = ASKED_AGAIN) -> bool:
    """Tells whether an engine may be asked one more request again now: callers come first.

    Args:
        paying: callers' answers under way there.
        again: requests that it is being asked again.
        waiting: requests that wait in the engine; None: it does not say, so none may be added.
        share: the most that may be asked again of those under way. It is ASKED_AGAIN, all of the first after a move,
            and for a shadow what a person has set.
    """
    most = max(_FEW_AT_ONCE, round(max(ASKED_AGAIN, share) * paying))
    return waiting == 0 and paying < MOST_UNDER_WAY and again < most


def waits_for_oldest(counted: int, over: Sequence[bool]) -> bool:
    """Tells whether the count of pairs, in the order of their admission, waits for the oldest that is not over.

    In the opening it does not wait for the longest answers: once seventeen of twenty pairs are over, what is missing in
    the oldest counts for the live release and against the one beneath. Of later pairs each is waited for, so that
    this weighs little where both are compared for long.

    Args:
        counted: pairs that have been counted since the move.
        over: of this pair and those after it, whether they are over; the first twenty are enough.
    """
    return counted >= OPENING or len(over) < TOGETHER or list(over[:TOGETHER]).count(False) > _LATE


_SOON_S, _LATER_S = 1.0, 60.0

_AHEAD_MS = MINUTE_MS
"""How far a sample may be ahead of the clock: one that is further was kept under another, and would stay longer."""


def keeps_sample(taken: int, since_s: float) -> bool:
    """Tells whether one more bad answer of a release is kept: one a second, and one a minute once there are SAMPLES.

    So its first ones, from when it began to go wrong, stay for a while.

    Args:
        taken: those that were kept.
        since_s: seconds since the last of them.
    """
    return since_s >= (_SOON_S if taken < SAMPLES else _LATER_S)


class Consent(NamedTuple):
    """For how many hours samples of a route are kept; those from before `from_ms` are not kept, whatever their age."""

    hours: int = 0
    from_ms: int = 0


def sample_stays(at_ms: int, consent: Consent, now_ms: int) -> bool:
    """Tells whether a sample of a time stays for now under its route's consent."""
    young = 0 <= at_ms <= now_ms + _AHEAD_MS and now_ms - at_ms < consent.hours * HOUR_MS
    return young and at_ms >= consent.from_ms
