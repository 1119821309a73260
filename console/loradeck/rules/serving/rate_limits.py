"""Rate limits: how much a caller has left of what it may ask in a minute."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was left of a minute's amount at a time in seconds. It fills up evenly, within a minute."""

    level: float
    at: float

    def filled(self, per_minute: float, now: float) -> float:
        """Returns what is left now."""
        return min(per_minute, self.level + (now - self.at) * per_minute / 60)


def take(bucket: Bucket | None, amount: float, per_minute: float, now: float) -> tuple[Bucket, float]:
    """Takes an amount, if it is left. More than a whole minute's is taken from a full bucket, which is in debt then.

    `bucket`: None: nothing was taken yet.

    Returns:
        The bucket afterwards, and the seconds until the amount can be taken; 0: it was taken.
    """
    level = per_minute if bucket is None else bucket.filled(per_minute, now)
    missing = min(amount, per_minute) - level
    if missing > 0:
        return Bucket(level, now), missing * 60 / per_minute
    return Bucket(level - amount, now), 0.0
