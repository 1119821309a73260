"""Rules of a route's judge: when it is asked, and what of its reply is a verdict."""

from collections.abc import Sequence

MINUTE_S = 60.0

_VERDICTS = {"PASS": True, "FAIL": False}


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
