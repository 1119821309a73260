"""Rules of judges: when a route's judge is asked, and what of a reply is a verdict.

A reply that is not the one word that was asked for is no verdict.
"""

from collections.abc import Sequence
from typing import Literal

MINUTE_S = 60.0

Side = Literal["first", "second", "tie"]
"""Which of two answers is better, as they were shown."""

_VERDICTS = {"PASS": True, "FAIL": False}
_SIDES: dict[str, Side] = {"FIRST": "first", "SECOND": "second", "TIE": "tie"}


def may_judge(sample: float, draw: float, per_minute: int, asked: Sequence[float], now: float) -> bool:
    """Tells whether the judge is asked of an answer that was checked now.

    Args:
        sample: the share that it is asked of.
        draw: between 0 and 1, at random for each answer.
        per_minute: answers that it may be asked of in any minute.
        asked: when it was asked, in seconds, as far back as a minute at least.
        now: likewise.
    """
    return draw < sample and sum(now - at < MINUTE_S for at in asked) < per_minute


def verdict_of(reply: str) -> bool | None:
    """Tells whether the judge passes an answer; None: its reply is another one than the word that it was asked for."""
    return _VERDICTS.get(reply.strip())


def side_of(reply: str) -> Side | None:
    """Says which of two answers the judge chose; None: its reply is another one than the word it was asked for."""
    return _SIDES.get(reply.strip())
