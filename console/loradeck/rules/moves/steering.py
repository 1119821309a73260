"""Steering: which of several hubs a node follows, and which one a person's call is made to.

Agents keep links to all hubs.

The rule of DESIGN 10.3: a hub steers only after it has found the position that the node was given last in its own log;
of those that have, the one of the highest epoch, since each hold of the lease has a higher epoch than the one before.
A hub that stands by steers nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a hub that a node is linked to has said.

    Attributes:
        epoch: the newest that its messages have named.
        proven: it has found what the node has seen in its log.
        active: it does not stand by.
    """

    epoch: int
    proven: bool
    active: bool = True


def steering(offers: Mapping[str, Offer], present: str | None) -> str | None:
    """The hub that a node follows; None: no active hub has made an offer, and the table stays as it is.

    A node whose hubs all lack what it has seen follows none of them either: its table stays, and the one of the highest
    epoch is the one that is shown, and that may recover.

    Args:
        offers: by the hub's address.
        present: the hub that the node has followed until now. It stays where another one is no better.
    """
    offers = {hub: offer for hub, offer in offers.items() if offer.active}
    best = max(offers.values(), key=_rank, default=None)
    if best is None:
        return None
    if present is not None and present in offers and _rank(offers[present]) == _rank(best):
        return present
    return next(hub for hub, offer in offers.items() if _rank(offer) == _rank(best))


def _rank(offer: Offer) -> tuple[bool, int]:
    return offer.proven, offer.epoch


def next_asked(hubs: Sequence[str], asked: str, named: str | None) -> str:
    """The hub that a call is made to after one has not answered, or has said that it is not active.

    A hub that is not among the caller's own is never asked, whoever names it: the call carries the caller's token.

    Args:
        hubs: the addresses that the caller was given, in their order.
        asked: that of the hub which was asked last.
        named: that of the active hub, as the one that was asked says; None: it knows none, or did not answer.
    """
    if named is not None and named != asked and named in hubs:
        return named
    return hubs[(hubs.index(asked) + 1) % len(hubs)]
