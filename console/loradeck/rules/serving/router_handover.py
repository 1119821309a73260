"""The hand-over between two routers of one node: who admits, and when a flip is acknowledged. The rule of DESIGN 10.4.

Both have the one listening socket, so connections wait in the kernel while neither accepts. The one that leaves gives
the table's lock back; the one that comes has loaded what it needs before, takes the lock, reads the table, and serves.
So two never admit at a time, and what was acknowledged before the hand-over is in the table that is read after it.

What the leaving one had admitted it finishes. It is then still answering by releases that later moves leave, and where
a route asks that those answers are cut (`Streams.CUT`), a flip is made only once they are.
"""

from collections.abc import Collection, Iterable
from enum import StrEnum

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import Streams, TableEntry


class Stage(StrEnum):
    """How far a router is between its start and its end."""

    WARM = "warm"  # it may have read the table to be quick, and waits for the lock
    SERVING = "serving"  # it holds the lock, and has read the table since it took it
    DRAINING = "draining"  # it has given the lock back, and finishes what it had admitted


def stage(*, locked: bool, read: bool, gave_back: bool) -> Stage:
    """The stage of a router.

    A router that has given the lock back never serves again, since its table is old from then on. If the one that was
    to come fails, the agent starts another.

    Args:
        locked: it holds the table's lock.
        read: it has read the table since it took the lock; what it read before may have been written to since.
        gave_back: it has held the lock, and does so no more.
    """
    if gave_back:
        return Stage.DRAINING
    return Stage.SERVING if locked and read else Stage.WARM


def may_admit(now: Stage) -> bool:
    """Tells whether a router at this stage admits a request, on whichever connection it comes.

    Only such a one accepts connections, writes the table and takes entries. A request on a connection that a draining
    router still has is answered by the other one, or not at all; the draining one says `Connection: close` with it.
    """
    return now is Stage.SERVING


def may_give_back(now: Stage, volatile: Collection[PointerKey]) -> bool:
    """Tells whether a router may give the lock back to another one, which will serve what the disk has.

    `volatile`: pointers of which it has more in memory than on its read-only disk. The next one would bring back the
    releases that these have left.
    """
    return now is Stage.SERVING and not volatile


def uncut(entry: TableEntry, answering: Iterable[str]) -> frozenset[str]:
    """The releases whose answers an entry wants cut, of those that a router is answering its callers with.

    Where a pointer is withdrawn from the node or its tenant is suspended, what was admitted is finished: no release was
    left.

    `answering`: ids of the releases of the pointer's answers that are under way.
    """
    if entry.streams is not Streams.CUT or entry.current is None or entry.suspended:
        return frozenset()
    candidate = entry.candidate.release.id if entry.candidate is not None else None
    return frozenset(answering) - {entry.current.id, candidate}


def may_acknowledge(now: Stage, entry: TableEntry, drainers: Iterable[Collection[str] | None]) -> bool:
    """Tells whether a router that has put an entry in force acknowledges the flip.

    `drainers`: of each draining router of the node that has not ended, the releases that it last said to answer the
    pointer's callers with; None: it has not said so since it drains. What it said stays true, since it admits nothing:
    such answers only become fewer.
    """
    if now is not Stage.SERVING:
        return False
    if entry.streams is not Streams.CUT:
        return True
    return all(answering is not None and not uncut(entry, answering) for answering in drainers)
