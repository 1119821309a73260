"""Witnesses: what a node's hello says about the log of the hub that it links to, and whether it is believed.

A node that was given a position which the log lacks shows that moves were lost, or that two hubs wrote to copies of one
log. Only a position that a hub of this log has signed counts for the fleet. What a node merely says holds back that
node and nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from loradeck.schemas.position import Position


class Standing(StrEnum):
    """What a node's hello says about this hub's log."""

    FOLLOWS = "follows"
    """The log holds what the node has seen, or the node is new."""
    LOST_TAIL = "lost_tail"
    """A hub of this log signed a position that the log lacks: an older copy was restored, and moves are missing."""
    FORK = "fork"
    """A hub of this log signed it under an epoch that this log gave to another hub: two copies were both written to."""
    UNPROVEN = "unproven"
    """The node says that it has seen what the log lacks, and shows no signature of a hub of this log."""

    @property
    def holds_back_moves(self) -> bool:
        """Whether moves wait for a recover, and not only this node."""
        return self in (Standing.LOST_TAIL, Standing.FORK)


def lacks(*, epoch: int, rev: int, hub_epoch: int, has_hash: bool) -> bool:
    """Whether an agent's hello shows that this hub's log lacks events which the agent has seen.

    Args:
        epoch: epoch that the agent durably holds.
        rev: rev that the agent durably holds; 0 for a new agent.
        hub_epoch: the hub's own epoch, raised when it took its lease; an agent with a higher one would drop every
            message from this hub, even where the logs agree.
        has_hash: this log holds the agent's hash at its rev.
    """
    return epoch > hub_epoch or (rev > 0 and not has_hash)


def judge(
    *,
    epoch: int,
    rev: int,
    has_hash: bool,
    hub_epoch: int,
    hub_rev: int,
    log: str,
    incarnations: Mapping[int, str],
    witnessed: Position | None,
) -> Standing:
    """Judges a hello.

    Args:
        epoch: epoch that the node durably holds.
        rev: rev that the node durably holds; 0 for a new node.
        has_hash: this log holds the node's hash at its rev.
        hub_epoch: the hub's own epoch, raised when it took its lease; a node with a higher one would drop every message
            of this hub, even where the logs agree.
        hub_rev: the hub's newest rev. An empty log has nothing to lose, so it waits for a recover on anybody's word.
        log: id of this log.
        incarnations: epoch -> incarnation, of every hold of the lease that this log knows.
        witnessed: the node's newest position, if its signature is of a key that this hub trusts; None otherwise.
    """
    if not lacks(epoch=epoch, rev=rev, hub_epoch=hub_epoch, has_hash=has_hash):
        return Standing.FOLLOWS
    if hub_rev == 0:
        return Standing.LOST_TAIL
    if witnessed is None or witnessed.log != log or (witnessed.epoch, witnessed.rev) != (epoch, rev):
        return Standing.UNPROVEN
    known = incarnations.get(witnessed.epoch)
    return Standing.FORK if known is not None and known != witnessed.incarnation else Standing.LOST_TAIL
