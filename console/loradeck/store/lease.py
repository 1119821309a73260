"""The lease: which hub may write to a database.

Epoch, holder and the head of the log are one row. A hub takes the lease when it starts, which raises the epoch. Each of
its writes updates that row under the condition that the hub still holds it, inside the same transaction, so that a hub
that was replaced can no longer commit anything. The holder is a random id of its process and never a name: two hubs of
one name are two holders.
"""

from __future__ import annotations

import secrets
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
    name: str
    """The hub's name, for people."""


@dataclass(frozen=True)
class Head:
    """The position of a log: its id, who extends it, and its newest event."""

    log: str
    lease: Lease
    incarnation: str
    rev: int
    hash: str


def new_holder() -> str:
    """A random id for a process that will hold a lease."""
    return secrets.token_hex(16)


def read_head(connection: Connection) -> Head:
    """Reads the head as the database has it; epoch 0 and no holder before the lease was first taken."""
    log, epoch, incarnation, holder, name, rev, hash_ = connection.execute(
        "SELECT log, epoch, incarnation, holder, name, rev, hash FROM head"
    ).fetchone()
    return Head(log, Lease(epoch, holder, name), incarnation, rev, hash_)


def take_lease(connection: Connection, holder: str, name: str, *, epoch_above: int = 0) -> Lease:
    """Takes the lease, from whoever has it, under an epoch above every earlier one and above `epoch_above`.

    It is held once the transaction of `connection` is committed.
    """
    head = read_head(connection)
    lease, incarnation = Lease(max(head.lease.epoch, epoch_above) + 1, holder, name), secrets.token_hex(16)
    connection.execute(
        "UPDATE head SET epoch = ?, incarnation = ?, holder = ?, name = ?", (lease.epoch, incarnation, holder, name)
    )
    connection.execute("INSERT INTO incarnations VALUES (?, ?, ?)", (lease.epoch, incarnation, head.rev))
    return lease


def hold_lease(connection: Connection, held: Lease | None) -> Head:
    """Updates the head as its holder, and returns it. Every transaction that writes calls this first.

    Raises:
        LeaseLost: it was never taken, or another hub has taken it since.
    """
    if held is None:
        raise LeaseLost("this hub does not hold the lease: it was never taken; nothing was changed")
    updated = connection.execute(
        "UPDATE head SET epoch = epoch WHERE epoch = ? AND holder = ?", (held.epoch, held.holder)
    ).rowcount
    head = read_head(connection)
    if not updated:
        raise _lost(head)
    return head


def check_lease(head: Head, holder: str) -> None:
    """Does nothing while the head names this holder.

    Raises: LeaseLost.
    """
    if head.lease.holder != holder:
        raise _lost(head)


def _lost(head: Head) -> LeaseLost:
    why = f"{head.lease.name!r} has it since, at epoch {head.lease.epoch}"
    return LeaseLost(f"this hub does not hold the lease: {why}; nothing was changed")


def extend_log(connection: Connection, held: Lease, *, rev: int, hash_: str) -> None:
    """Moves the head of the log to a new newest event, in the transaction that appended it.

    Raises:
        LeaseLost: as `hold_lease`.
    """
    updated = connection.execute(
        "UPDATE head SET rev = ?, hash = ? WHERE epoch = ? AND holder = ?", (rev, hash_, held.epoch, held.holder)
    ).rowcount
    if not updated:
        raise LeaseLost("this hub does not hold the lease any more; nothing was changed")
