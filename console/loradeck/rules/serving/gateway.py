"""Gateways: routers without an engine, which choose a node for a request and never a release.

A gateway sends the highest fence that it knows of the pointer. So a node which has missed a move, and may never hear of
it, answers nobody who comes through a gateway that has heard of it.
"""

import hashlib
import math
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from loradeck.schemas.ids import Fence, Name
from loradeck.schemas.replica_state import AckLevel

WAIT_S = 1.0
"""How long a router that holds less than a gateway has seen waits for the entry, in seconds, before it refuses."""

RETRIED = frozenset(
    {
        "behind",
        "untold",
        "not_ready",
        "cold_queue_full",
        "no_slot",
        "hub_lost",
        "removed",
        "not_here",
        "unknown_route",
        "bad_key",
        "too_many_failed_logins",
        "engine_unreachable",
        "engine_silent",
        "router_restarts",
    }
)
"""Refusals of one node after which another one may well answer."""


TRIES = 4
"""How many nodes one request asks at most."""


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
    asked = set(tried)
    if begun or len(asked) >= TRIES or (refusal is not None and refusal not in RETRIED):
        return None
    return next((node for node in nodes if node not in asked), None)


def followed(nodes: Sequence[Name], told: Iterable[Name], known: Container[Name]) -> list[Name]:
    """The nodes of a request once one of them has answered `not_here`: those that it names come first.

    Args:
        told: the nodes that serve the pointer, as that one says.
        known: those whose addresses a hub has told. No other is asked: a caller's key goes with the request.
    """
    named = [name for name in dict.fromkeys(told) if name in known]
    return [*named, *(name for name in nodes if name not in named)]


NEARNESS = tuple(AckLevel)
"""How near a release may be to answering on a node, the nearest first."""

_RANK = {level: rank for rank, level in enumerate(NEARNESS)}

SPARE = 1.25
"""A node gets at most so many times its share of what is under way on the nodes that are as near."""

STALL_S = 10.0
"""A node that has answers under way, and has sent nothing for so long, is asked last."""

REST_S = 0.5
LONGEST_REST_S = 30.0
"""How long a node is asked last after a failure: the first in a row, and at most."""


def rest_s(failures: int) -> float:
    """The seconds for which a node is asked last after so many failures in a row: twice as many after each one more."""
    return min(REST_S * 2.0 ** min(failures - 1, 16), LONGEST_REST_S) if failures else 0.0


def is_stalled(under_way: int, quiet_s: float) -> bool:
    """Tells whether a node does not get on with what it was asked, however many connections it takes."""
    return under_way > 0 and quiet_s >= STALL_S


@dataclass(slots=True)
class NodeHealth:
    """What a gateway has seen of one node. Times are seconds of one monotonic clock.

    Attributes:
        under_way: answers that the node owes.
        failures: in a row.
    """

    under_way: int = 0
    failures: int = 0
    _heard_at: float = 0.0
    _failed_at: float = 0.0

    def take(self, now: float) -> None:
        """Notes that one more answer is owed."""
        if not self.under_way:
            self._heard_at = now  # it owed nothing until now
        self.under_way += 1

    def give_back(self) -> None:
        """Notes that an answer is over, however it ended."""
        self.under_way -= 1

    def heard(self, now: float) -> None:
        """Notes that the node has sent something."""
        self._heard_at, self.failures = now, 0

    def failed(self, now: float) -> None:
        """Notes that it could not be reached, or was lost in mid-answer."""
        self.failures += 1
        self._failed_at = now

    def rest_s(self, now: float) -> float:
        """The seconds for which it is still asked last after its last failure."""
        return max(0.0, rest_s(self.failures) - (now - self._failed_at))

    def is_stalled(self, now: float) -> bool:
        """Tells whether it has owed answers and sent nothing for too long."""
        return is_stalled(self.under_way, now - self._heard_at)

    def is_avoided(self, now: float) -> bool:
        """Tells whether it is asked last."""
        return self.rest_s(now) > 0 or self.is_stalled(now)


def told_ahead(nodes: Mapping[Name, AckLevel], avoided: Collection[Name]) -> Name | None:
    """Returns the node to which a coming request is announced, so that it loads the release meanwhile.

    It is the one that is asked first, where the release lies on its disk alone. None: the release is nearer somewhere,
    or it is not known yet which of several nodes is asked. Arguments as for `ranked`.
    """
    near = {name: _RANK[level] for name, level in nodes.items() if name not in avoided}
    nearest = [name for name, rank in near.items() if rank == min(near.values())]
    return nearest[0] if len(nearest) == 1 and nodes[nearest[0]] is AckLevel.DISK else None


def ranked(
    nodes: Mapping[Name, AckLevel], under_way: Mapping[Name, int], avoided: Collection[Name], prompt: bytes
) -> list[Name]:
    """The nodes of a pointer in the order in which a request asks them.

    The nearest come first. Of those that are as near, the one is preferred that a hash of its name and the prompt
    chooses (rendezvous hashing), so that prompts which begin alike meet the same cache. One that has more than its
    share under way comes after the others, and those by what they have under way (bounded loads).

    Args:
        nodes: how near the pointer's release is on each of them.
        under_way: answers that each of them owes this gateway.
        avoided: those that have failed or stalled; they come last.
        prompt: the release and how the prompt begins.
    """
    if len(nodes) < 2:
        return list(nodes)
    groups: dict[int, dict[Name, int]] = {}
    for name, level in nodes.items():
        rank = _RANK[level] + (len(_RANK) if name in avoided else 0)
        groups.setdefault(rank, {})[name] = under_way.get(name, 0)
    order: list[Name] = []
    for _, alike in sorted(groups.items()) if len(groups) > 1 else groups.items():
        share = math.ceil(SPARE * (sum(alike.values()) + 1) / len(alike))
        keyed = [
            (mine if mine >= share else -1, hashlib.sha256(name.encode() + b"\0" + prompt).digest(), name)
            for name, mine in alike.items()
        ]
        keyed.sort()
        order += [name for _, _, name in keyed]
    return order
