"""Where the requests of one counter were booked: outcomes are added to the second in which they were attempted."""

import math
from dataclasses import dataclass

from loradeck.hub.progress.windows import WINDOW_S, second
from loradeck.schemas.counts import Counts


@dataclass(slots=True)
class _Booked:
    """Requests that were attempted at one time (monotonic seconds) and whose outcome, or check, is still to come."""

    at: float
    in_flight: int = 0
    unchecked: int = 0


class Bookings:
    """The requests of one counter that are in flight, and its answers that are not checked, by when they were booked.

    A router says how many requests ended, not which. The oldest are taken to finish first, and the newest to fail, to
    be taken back and to be checked first: an engine that fails does so at once. Every second adds up, whichever they
    were.
    """

    __slots__ = ("_booked",)

    def __init__(self, in_flight: int = 0) -> None:
        self._booked = [_Booked(-math.inf, in_flight)] if in_flight else []

    def book(self, now: float, growth: Counts, over_s: float) -> tuple[list[tuple[float, Counts]], Counts]:
        """Books the growth of the counter.

        Args:
            now: monotonic seconds.
            over_s: the seconds in which the counter has grown. A router that had no link for ten minutes reports all
                ten at once: a tenth of it is the last minute's.

        Returns:
            What falls into the last minute, by time, newest first; and all requests that are over. Each part adds up
            with what was booked at its time before.
        """
        self._forget(now)
        back = max(0, growth.refused - growth.attempted)  # were in flight when a move cut them, and were refused then
        refused = growth.refused - back
        newest = _Booked(second(now), growth.attempted - refused)
        booked = self._booked
        booked.append(newest)
        ended = [0] * len(booked)
        finished, failed, checked, bad = growth.finished, growth.failed, growth.checked, growth.bad
        for index, one in enumerate(booked):
            if not finished:
                break
            if n := min(one.in_flight, finished):
                ended[index] = n
                finished -= n
                one.in_flight -= n
                one.unchecked += n
        recent: list[tuple[float, Counts]] = []
        for index in range(len(booked) - 1, -1, -1):
            one, n = booked[index], ended[index]
            lost, seen = min(one.in_flight, failed), min(one.unchecked, checked)
            worse = min(seen, bad)
            failed, checked, bad = failed - lost, checked - seen, bad - worse
            again = min(one.in_flight - lost, back)
            back -= again
            one.in_flight -= lost + again
            one.unchecked -= seen
            if one is newest:
                part = Counts(growth.attempted, refused, lost, n, seen, worse)
                if over_s > WINDOW_S:
                    part = part.scaled(WINDOW_S / over_s)
                    one.unchecked = part.finished - part.checked
                if part:
                    recent.append((one.at, part))
            elif (n or lost or seen or again) and one.at > -math.inf:
                recent.append((one.at, Counts(0, again, lost, n, seen, worse)))
        over = Counts.over(
            refused=growth.refused - back,
            failed=growth.failed - failed,
            finished=growth.finished - finished,
            checked=growth.checked - checked,
            bad=growth.bad - bad,
        )
        self._booked = [one for one in booked if one.in_flight or one.unchecked]
        return recent, over

    def _forget(self, now: float) -> None:
        """Puts together what was booked before the last minute: no window looks at when."""
        if len(self._booked) < 2 and (not self._booked or self._booked[0].at == -math.inf):
            return
        old = [one for one in self._booked if one.at < now - WINDOW_S]
        if old and (len(old) > 1 or old[0].at > -math.inf):
            together = _Booked(-math.inf, sum(o.in_flight for o in old), sum(o.unchecked for o in old))
            self._booked = [together, *self._booked[len(old) :]]
