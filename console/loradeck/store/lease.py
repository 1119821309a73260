"""The lease: which hub may write to a database.

A hub takes the lease when it starts, which raises the epoch. Each of its writes compares the epoch it took with the
one in the database, inside the same transaction, so that a hub that was replaced can no longer commit anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loradeck.store.interface import LeaseLost

if TYPE_CHECKING:
    from sqlite3 import Connection


@dataclass(frozen=True)
class Lease:
    """Who holds the lease, and the epoch of its hold. Each hold has a higher epoch than the one before."""

    epoch: int
    holder: str


def current_lease(connection: Connection) -> Lease:
    """Reads the lease as the database has it; epoch 0 and no holder before it was first taken."""
    epoch, holder = connection.execute("SELECT epoch, holder FROM lease").fetchone()
    return Lease(int(epoch), str(holder))


def take_lease(connection: Connection, holder: str, *, epoch_above: int = 0) -> Lease:
    """Takes the lease, from whoever has it, under an epoch above every earlier one and above `epoch_above`.

    It is held once the transaction of `connection` is committed.
    """
    lease = Lease(max(current_lease(connection).epoch, epoch_above) + 1, holder)
    connection.execute("UPDATE lease SET epoch = ?, holder = ?", (lease.epoch, holder))
    return lease


def check_lease(connection: Connection, held: Lease | None) -> Lease:
    """Returns the lease that is held. To be called inside the transaction that writes.

    Raises:
        LeaseLost: it was never taken, or another hub has taken it since.
    """
    now = current_lease(connection)
    if held is None or held.epoch != now.epoch:
        why = f"{now.holder!r} has it since, at epoch {now.epoch}" if held else "it was never taken"
        raise LeaseLost(f"this hub does not hold the lease: {why}; nothing was changed")
    return held
