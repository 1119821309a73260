"""Rules of certificates: how long they live, when they are renewed, and what an old or a revoked one may still do.

Times are milliseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from loradeck.rules.clocks import DAY_MS

LIFETIME_MS = 90 * DAY_MS
"""From the time at which a certificate is made to its expiry."""

BACKDATED_MS = DAY_MS
"""How long before the time at which it is made a certificate begins to count: clocks differ."""


@dataclass(frozen=True)
class Validity:
    """From when and until when a certificate counts."""

    from_ms: int
    until_ms: int

    @classmethod
    def beginning(cls, now_ms: int) -> Validity:
        """The validity of a certificate that is made now."""
        return cls(now_ms - BACKDATED_MS, now_ms + LIFETIME_MS)

    def counts(self, now_ms: int) -> bool:
        """Tells whether it counts now."""
        return self.from_ms <= now_ms <= self.until_ms

    @property
    def renew_ms(self) -> int:
        """When it is to be renewed: after a third of its life, so that two thirds are left for a hub that is away."""
        return self.from_ms + (self.until_ms - self.from_ms) // 3


class Renewal(StrEnum):
    """What becomes of a hub's own certificate."""

    KEEP = "keep"
    NEW = "new"
    EARLIER = "earlier"  # the one before it is shown again


def renewal(shown: Validity, earlier: Validity | None, now_ms: int) -> Renewal:
    """Decides whether a hub shows another certificate than it does.

    One that does not count yet was made while the hub's clock was ahead, or the clock is behind now. A hub cannot tell
    which, and a certificate that is made by a clock which is behind may be over for everybody else. So none is made
    then: the one before is shown again if it counts, which it does in both cases where the clock is off by a month.

    Args:
        shown: of the certificate that is shown.
        earlier: of the one before, if it could be shown in its place; None: there is none.
    """
    if now_ms < shown.from_ms:
        return Renewal.EARLIER if earlier is not None and earlier.counts(now_ms) else Renewal.KEEP
    return Renewal.NEW if now_ms >= shown.renew_ms else Renewal.KEEP


class May(StrEnum):
    """What the holder of a certificate may do at the hub."""

    LINK = "link"
    RENEW = "renew"  # and nothing else
    NOTHING = "nothing"


def may(validity: Validity, now_ms: int, *, bound: bool, revoked: bool) -> May:
    """Decides what may be done by whoever has proved to hold the key of a certificate that the hub's authority signed.

    A certificate that does not count yet is taken for one that does: the hub's own clock has gone back.

    Args:
        bound: the hub has the key on record for its node. After a restore it may not; what is signed and not expired
            counts all the same, for else a restored hub would stand alone.
        revoked: somebody has withdrawn that key.
    """
    if revoked:
        return May.NOTHING
    if now_ms <= validity.until_ms:
        return May.LINK
    return May.RENEW if bound else May.NOTHING
