"""The lease: which hub may write to a database.

Epoch, holder and the head of the log are one row. A hub takes the lease when it starts, which raises the epoch. Each of
its writes updates that row under the condition that the hub still holds it, inside the same transaction, so that a hub
that was replaced can no longer commit anything. The holder is a random id of its process and never a name: two hubs of
one name are two holders.

Where several hubs share a database, a hold ends by the database's clock unless it is renewed, and nobody else takes the
lease before that, or before it has watched for as long by its own clock that it is not renewed. Time decides only who
may take it: whether a write is made is decided by epoch and holder.
"""

import secrets
from typing import Any

from loradeck.rules.moves.lease import Renewal
from loradeck.store.interface import Head, Lease, LeaseHeld, LeaseLost
from loradeck.store.sql_database import Connection

_HEAD = "log, epoch, holder, name, address, expires_ms, incarnation, rev, hash, at_ms, clock_ms()"
_IN_TIME = "(expires_ms IS NULL OR expires_ms > clock_ms())"


def new_holder() -> str:
    """A random id for a process that will hold a lease."""
    return secrets.token_hex(16)


def read_head(connection: Connection) -> Head:
    """Reads the head as the database has it; epoch 0 and no holder before the lease was first taken."""
    return _head(connection.execute(f"SELECT {_HEAD} FROM head").fetchone())


def take_lease(
    connection: Connection,
    holder: str,
    name: str,
    *,
    address: str = "",
    ttl_s: float | None = None,
    epoch_above: int = 0,
    anyway: bool = True,
    unless_renewed: Renewal | None = None,
) -> Lease:
    """Takes the lease under an epoch above every earlier one and above `epoch_above`, for `ttl_s` seconds if given.

    It is held once the transaction of `connection` is committed. `unless_renewed`: a renewal that the caller has
    watched for the length of the lease; a hold is over if that is still its newest one.

    Raises: LeaseHeld: another hub holds it, and `anyway` is not said.
    """
    for read in (read_head, locked_head):  # hubs that wait ask often, and must not wait for the holder's commits
        head = read(connection)
        is_over = not head.is_held or head.renewal == unless_renewed
        if not anyway and not is_over and head.lease.holder != holder:
            raise LeaseHeld(head.lease, head.remaining_s)
    epoch, incarnation = max(head.lease.epoch, epoch_above) + 1, secrets.token_hex(16)
    ttl_ms = None if ttl_s is None else round(ttl_s * 1000)
    connection.execute(
        "UPDATE head SET epoch = ?, incarnation = ?, holder = ?, name = ?, address = ?, expires_ms = clock_ms() + ?",
        (epoch, incarnation, holder, name, address, ttl_ms),
    )
    connection.execute("INSERT INTO incarnations VALUES (?, ?, ?)", (epoch, incarnation, head.rev))
    return Lease(epoch=epoch, holder=holder, name=name, address=address, ttl_s=ttl_s)


def renew_lease(connection: Connection, held: Lease | None, ttl_s: float) -> None:
    """Holds the lease for `ttl_s` seconds from now. One that ran out is held again, if nobody has taken it since.

    Raises: LeaseLost.
    """
    if held is None:
        raise _never_taken()
    renewed = connection.execute(
        "UPDATE head SET expires_ms = clock_ms() + ? WHERE epoch = ? AND holder = ? RETURNING epoch",
        (round(ttl_s * 1000), held.epoch, held.holder),
    ).fetchall()
    if not renewed:
        raise _lost(read_head(connection), held)


def release_lease(connection: Connection, held: Lease) -> None:
    """Ends a hold, so that another hub need not wait until it runs out. Does nothing for a hold that was lost."""
    connection.execute(
        "UPDATE head SET holder = holder, expires_ms = clock_ms() WHERE epoch = ? AND holder = ?",
        (held.epoch, held.holder),
    )


def hold_lease(connection: Connection, held: Lease | None) -> Head:
    """Updates the head as its holder, and returns it. Every transaction that writes calls this first.

    Raises: LeaseLost: it was never taken, it ran out, or another hub has taken it since.
    """
    if held is None:
        raise _never_taken()
    rows = connection.execute(
        f"UPDATE head SET epoch = epoch WHERE epoch = ? AND holder = ? AND {_IN_TIME} RETURNING {_HEAD}",
        (held.epoch, held.holder),
    ).fetchall()
    if not rows:
        raise _lost(read_head(connection), held)
    return _head(rows[0])


def check_lease(head: Head, held: Lease | None, holder: str) -> None:
    """Does nothing while the head names this holder, and its hold has not run out. Raises: LeaseLost."""
    if head.lease.holder != holder or not head.is_held:
        raise _lost(head, held)


def locked_head(connection: Connection) -> Head:
    """Reads the head by a write, so that no other transaction changes it until this one has ended."""
    return _head(connection.execute(f"UPDATE head SET epoch = epoch RETURNING {_HEAD}").fetchall()[0])


def _head(row: tuple[Any, ...]) -> Head:
    log, epoch, holder, name, address, expires_ms, incarnation, rev, hash_, at_ms, now_ms = row
    remaining_s = None if expires_ms is None else max(0.0, (expires_ms - now_ms) / 1000)
    lease = Lease(epoch=epoch, holder=holder, name=name, address=address)
    hold = {"lease": lease, "expires_ms": expires_ms, "remaining_s": remaining_s, "incarnation": incarnation}
    return Head(log=log, **hold, rev=rev, hash=hash_, at_ms=at_ms, now_ms=now_ms)


def _never_taken() -> LeaseLost:
    return LeaseLost("this hub does not hold the lease: it was never taken; nothing was changed")


def _lost(head: Head, held: Lease | None) -> LeaseLost:
    why = f"{head.lease.name!r} has it since, at epoch {head.lease.epoch}"
    if held is not None and (head.lease.epoch, head.lease.holder) == (held.epoch, held.holder):
        why = "it ran out before it was renewed"
    return LeaseLost(f"this hub does not hold the lease: {why}; nothing was changed")
