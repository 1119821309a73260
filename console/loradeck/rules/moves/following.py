"""Following a hub's log: whether a node may go on from the position that it holds to the one that its hub sends."""

from collections.abc import Iterable

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import Bookmark, Desired
from loradeck.schemas.position import Position
from loradeck.schemas.table import TableEntry


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
