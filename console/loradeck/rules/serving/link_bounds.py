"""What one node may take of the hub by its messages: their sizes, their number of rows, their rate, and after refusals.

A node is trusted with what it serves, and not with the hub that all tenants need for R.
"""

import re
from dataclasses import dataclass

MESSAGE_BYTES = 1 << 20
"""Bytes of the longest message, but for those that the hub waits for (`LARGE`)."""

LARGE = {"table_state": 64 << 20, "job_event": 17 << 20}
"""Types of messages that may be longer where the hub has asked for a table or has given the node jobs -> bytes."""

_UNCOUNTED = 4096
"""Bytes of messages that are too short to have many rows."""

_OBJECT_BYTES, _ARRAY_BYTES = 40, 8
"""Bytes of a message for each object, and for each array, in it. Those of agents have more than twice as many."""

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)

BYTES_A_SECOND = 4 << 20
BURST_BYTES = 32 << 20
"""Bytes that a node may send in the long run, and at once: a thousand busy tenants take one mebibyte a second."""

LEAST_BYTES = 256
"""What each message counts as at least: the hub's work does not end with its bytes."""

FRAME_BYTES = 32 << 10
"""What a frame counts as at least that is no message of a linked node in one piece: a ping, a part, a console's.

So 128 of them a second are read in the long run, and 1,024 at once. Each is work for the library, and a ping for the
network too; agents send none, and consoles a few a minute.
"""

LONGEST_BAR_S = 60.0


def may_be_long(data: bytes, asked: frozenset[str]) -> bool:
    """Tells whether a message may be longer than `MESSAGE_BYTES`: it is of a type that was asked for.

    Its type is the first thing that an agent writes, and it is told apart before the message is read.
    """
    return any(data.startswith(b'{"type":"%s"' % kind.encode()) and len(data) <= LARGE[kind] for kind in asked)


def has_too_many_rows(data: bytes) -> bool:
    """Tells whether a message has more objects or arrays than one of its length can have with something in them.

    A parser takes half a kilobyte for an empty object, which is two bytes long. What texts have in them does not count.
    """
    if len(data) <= _UNCOUNTED or not _is_crowded(data):
        return False
    return _is_crowded(_STRINGS.sub(b"", data), len(data))


def _is_crowded(data: bytes, size: int | None = None) -> bool:
    size = len(data) if size is None else size
    return data.count(b"{") * _OBJECT_BYTES > size or data.count(b"[") * _ARRAY_BYTES > size


def bar_s(refusals: int) -> float:
    """Seconds for which a node gets no link after so many in a row that ended by a message that was refused.

    An agent of another version is refused the same way, so that the first two cost nothing.
    """
    return min(LONGEST_BAR_S, 2.0 ** (refusals - 3)) if refusals > 2 else 0.0


@dataclass(slots=True)
class Allowance:
    """The bytes that a peer may still send. `at`: when they were counted last, seconds of a monotonic clock."""

    at: float
    left: float = BURST_BYTES

    def take(self, size: int, now: float, least: int = LEAST_BYTES) -> float:
        """Counts a message, or a frame. `least`: the bytes that it counts as where it has fewer.

        Returns the seconds until there is something left again; 0 where there is.
        """
        self.left = min(BURST_BYTES, self.left + (now - self.at) * BYTES_A_SECOND) - max(size, least)
        self.at = now
        return max(0.0, -self.left / BYTES_A_SECOND)
