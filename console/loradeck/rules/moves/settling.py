"""Settling: from when on a hub that has started moves anything.

A database that was restored from an older copy looks like any other until a node shows what it has seen. A node that
was linked when the log was last written followed it then, and so would have seen whatever is missing now.
"""

from loradeck.schemas.replica_state import LINK_TTL_S


def settled(awaited: int, greeted: int, waited_s: float) -> bool:
    """Tells whether a hub has waited for long enough: half of the nodes are back, or a TTL has passed.

    Args:
        awaited: how many nodes were linked when the log was last written.
        greeted: how many of them have said hello since the start.
        waited_s: seconds since the start.
    """
    return 2 * greeted >= awaited or waited_s >= LINK_TTL_S
