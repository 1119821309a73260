"""Gateways: routers without an engine, which choose a node for a request and never a release.

A gateway sends the highest fence that it knows of the pointer. So a node which has missed a move, and may never hear of
it, answers nobody who comes through a gateway that has heard of it.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from loradeck.schemas.ids import Fence, Name

WAIT_S = 1.0
"""How long a router that holds less than a gateway has seen waits for the entry, in seconds, before it refuses."""

RETRIED = frozenset({"behind", "not_ready", "hub_lost", "removed", "unknown_route", "engine_unreachable"})
"""Refusals of one node after which another one may well answer."""


def highest(told: Fence | None, told_epoch: int, shown: Iterable[Fence]) -> Fence | None:
    """The fence of a pointer that a gateway sends along; None: it knows of none.

    A fence that a router shows counts only under the epoch of the gateway's own table, or a later one. An earlier
    hub's moves are all in a later hub's table, or were lost with its log: such a fence, held by nobody who may answer,
    would have the pointer refused for ever.

    Args:
        told: of the entry in the gateway's own table.
        told_epoch: of the hub that this table is from.
        shown: by routers, with their answers.
    """
    known = [fence for fence in shown if fence[0] >= told_epoch]
    return max(known + ([told] if told is not None else []), default=None)


class FenceVerdict(StrEnum):
    """A router's decision about a request that comes with the fence of a move, by the entry that the router holds."""

    ADMIT = "admit"  # it holds that move, or a later one
    WAIT = "wait"  # the entry may be on its way
    BEHIND = "behind"  # refuse: it would answer by a move that was left


def standing(held: Fence | None, seen: Fence, waited_s: float) -> FenceVerdict:
    """Decides about a request by the entry that this router holds.

    Args:
        held: fence of the newest entry here; None: there is none.
        seen: the highest fence that the gateway knows.
    """
    if held is not None and held >= seen:
        return FenceVerdict.ADMIT
    return FenceVerdict.BEHIND if waited_s >= WAIT_S else FenceVerdict.WAIT


def next_node(nodes: Sequence[Name], tried: Iterable[Name], *, refusal: str | None = None, begun: bool) -> Name | None:
    """The node that is asked next; None: the caller gets what there is.

    Args:
        nodes: those on which the pointer is placed, the preferred one first.
        tried: those that were asked for this request.
        refusal: code with which the last one refused; None: none was asked, or it could not be reached.
        begun: it has begun to answer, so that a second answer would be given beside the first.
    """
    if begun or (refusal is not None and refusal not in RETRIED):
        return None
    asked = set(tried)
    return next((node for node in nodes if node not in asked), None)
