"""The lease: when a hub may take it, when the one that has it steps down, and what the next one knows of the log.

One hub of those that share a database is active: it holds the lease, renews it, and all others stand by. What is
committed is safe without any clock, since each commit is an update of the lease's row by its holder. The times below
are about the rest: how soon another hub serves, and how soon one that cannot know whether it is active stops steering.

A hub that has started settles before it moves anything. A database that was restored from an older copy looks like any
other until a node shows what it has seen. A node that was linked when the log was last written followed it then, and so
would have seen whatever is missing now.
"""

from dataclasses import dataclass

from loradeck.schemas.replica_state import LINK_TTL_S

TTL_S = 3.5
"""Seconds for which a lease is held after a renewal, by the clock of the database.

The budgets of DESIGN 10.8 for R after a failure are 5 s where the process was killed, 12 s where its host is lost and
15 s where it hangs. In each case nobody renews any more, and the lease ends `TTL_S` after the last renewal at most. The
next hub asks when the time that is left has passed (`LOOK_S` later at most), and builds itself in well under half a
second for a fleet of a thousand nodes. Then nodes make their links to it anew, which takes half a second: 3.5 + 0.25 +
0.5 + 0.5 < 5 s.
"""

RENEW_S = 0.5
"""Seconds between two renewals. Five of them may fail, or come 3 s late, before anybody else may take the lease."""

LOOK_S = 0.25
"""Seconds between two looks of a hub that stands by, at the log and at the lease."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A hold of the lease: the log, and the epoch and incarnation that it began."""

    log: str
    epoch: int
    incarnation: str


@dataclass(frozen=True, kw_only=True)
class Watched:
    """How far a hub that stands by has folded the log, and the hold of the lease that it read then."""

    hold: Hold
    rev: int


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """What a renewal writes into the database: who holds the lease, and until when by the database's clock (ms)."""

    epoch: int
    holder: str
    expires_ms: int | None


def left_s(by_database_s: float | None, unrenewed_s: float) -> float | None:
    """Seconds until the lease is over for a hub that watches it. None: it does not end by time.

    Two clocks count, and the lease is over as soon as one of them says so. By the database's clock alone nobody would
    take over for an hour after somebody has set it back by one. So a renewal that a hub has watched for the length of
    the lease by its own clock, and that was not followed by another one, is over too (as in the leader election of
    Kubernetes' client-go). Two clocks need not agree for that, only run equally fast.

    Args:
        by_database_s: seconds until the hold ends by the clock of the database; None: it does not end by time.
        unrenewed_s: seconds for which the hub has read the same renewal, by its own monotonic clock.
    """
    return None if by_database_s is None else max(0.0, min(by_database_s, TTL_S - unrenewed_s))


def next_look_s(remaining_s: float | None) -> float:
    """Seconds that a hub which stands by waits before it looks again.

    `remaining_s`: seconds until the lease is over; None: not known.
    """
    return LOOK_S if remaining_s is None else max(0.0, min(LOOK_S, remaining_s))


def must_step_down(since_renewal_s: float, ttl_s: float) -> bool:
    """Tells whether the hub that has the lease must take it for over: it stops steering, and answers `not_active`.

    It counts from when it *asked* for its last renewal, which is before the database wrote it down. So whenever another
    hub may take the lease, this one has stopped, as far as two clocks run equally fast.

    `since_renewal_s`: seconds since it asked for the last renewal that it was granted.
    """
    return since_renewal_s >= ttl_s


def needs_settling(watched: Watched | None, taken: Watched, *, follows: bool) -> bool:
    """Tells whether a hub that takes the lease waits for its nodes before it moves anything (`settled`).

    A hub waits because its database may be an older copy. One that has stood by has read the log itself: where the
    lease was still of the hold that it watched, and the log follows what it has folded, nothing that it read is
    missing. What it had not read yet is as safe as the database keeps commits.

    Args:
        watched: at its last look before it took the lease; None: it did not stand by.
        taken: the end of the log, and the hold after which it took the lease.
        follows: the events up to there follow those that it had folded, and are of that hold.
    """
    return watched is None or watched.hold != taken.hold or not follows or taken.rev < watched.rev


def settled(awaited: int, greeted: int, waited_s: float) -> bool:
    """Tells whether a hub has waited for long enough: half of the nodes are back, or a TTL has passed.

    Args:
        awaited: how many nodes were linked when the log was last written.
        greeted: how many of them have said hello since the start.
        waited_s: seconds since the start.
    """
    return 2 * greeted >= awaited or waited_s >= LINK_TTL_S
