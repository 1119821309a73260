"""Steering: which of several hubs a node follows, from which position on, and which one a person's call is made to.

Agents keep links to all hubs.

The rule of DESIGN 10.3: a hub steers only after it has found the position that the node was given last in its own log;
of those that have, the one of the highest epoch, since each hold of the lease has a higher epoch than the one before.
A hub that stands by steers nobody.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Bookmark, Desired
from loradeck.schemas.position import Position
from loradeck.schemas.table import TableEntry


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


def flaw(message: Desired | Bookmark, held: Position | None) -> str:
    """Returns why a node cannot follow its hub to the position that a message carries; '' if it can.

    The signature is checked elsewhere.

    Within one epoch there is one hub and one history, whoever signs. A log that a person has recovered into another
    one begins an epoch of its own.

    `held`: the newest position that the node holds; None: it has none that is signed.
    """
    position = message.position
    if position is None:
        return "it has no signed position"
    if (position.epoch, position.rev, position.hash) != (message.epoch, message.rev, message.hash):
        return f"its signed position is epoch {position.epoch} revision {position.rev}, or has another hash"
    if held is None or position.epoch != held.epoch:
        return ""
    if (position.log, position.incarnation) != (held.log, held.incarnation):
        return f"another hub signed epoch {held.epoch} before, or it is of another log"
    if position.rev == held.rev and position.hash != held.hash:
        return f"its event of revision {held.rev} is not the one that this node has seen"
    return ""


def foreign(entries: Iterable[TableEntry], position: Position | None) -> list[PointerKey]:
    """The pointers whose entries cannot be of the log of their message's position: of another one, or a later epoch."""
    if position is None:
        return []
    return [e.key for e in entries if e.log not in ("", position.log) or e.epoch > position.epoch]


def obeys(order_epoch: int, held_epoch: int) -> bool:
    """Tells whether a node carries out an order, such as a job or a drain: not one of a hub that was succeeded.

    Args:
        order_epoch: the epoch that the order carries; 0: of a hub of version 1, which sends none.
        held_epoch: that of the node's table.
    """
    return order_epoch == 0 or order_epoch >= held_epoch
