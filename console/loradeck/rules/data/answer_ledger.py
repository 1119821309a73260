"""Rules of the answer ledger: how long its segments are kept, where a request is looked for, and what a chain shows."""

from collections.abc import Iterable, Sequence

from loradeck.rules.clocks import DAY_MS, HOUR_MS, MINUTE_MS
from loradeck.rules.merkle import is_in
from loradeck.rules.serving.request_ids import time_of
from loradeck.schemas.answer_ledger import Segment, SegmentHead
from loradeck.schemas.ids import GENESIS, short
from loradeck.schemas.position import AuditHead

SEGMENT_SPAN_MS = DAY_MS
"""Most time between the first and the last row of one segment."""

SKEW_MS = 10 * MINUTE_MS
"""How far the clock of whoever gave a request its id may be from the clock of the node that answered it."""

LOOK_BACK_DAYS = 2
"""Days back that a request is looked for whose id has no time."""


def kept_from(days: int, now_ms: int) -> int:
    """The time from which on a tenant's segments are kept: one is whose newest row is not older."""
    return now_ms - days * DAY_MS


def window(request: str, at_ms: int | None, now_ms: int) -> tuple[int, int]:
    """The times between which a request is looked for, milliseconds since 1970 UTC, both included.

    `at_ms`: about when it was asked, as a person says; the hour before and after are searched. None: by the id.
    """
    if at_ms is not None:
        return at_ms - HOUR_MS, at_ms + HOUR_MS
    said = time_of(request)
    if said is not None:
        # It is admitted after it got its id: a request may wait for a gateway, or be tried again.
        return said - SKEW_MS, said + HOUR_MS + SKEW_MS
    return now_ms - LOOK_BACK_DAYS * DAY_MS, now_ms + SKEW_MS


SPAN_MS = 6 * HOUR_MS
"""Length of a span in which many requests are looked for, at most."""


def spans(requests: Iterable[str], now_ms: int) -> list[tuple[int, int]]:
    """The times in which requests are looked for, as `window` says, in spans of whole hours, the newest first.

    None begins in the future. They do not overlap, so whoever reads so many segments and no more reads the newest.
    """
    windows = (window(request, None, now_ms) for request in requests)
    latest = (now_ms + SKEW_MS) // HOUR_MS
    hours = {
        hour
        for since_ms, until_ms in windows
        for hour in range(since_ms // HOUR_MS, min(until_ms // HOUR_MS, latest) + 1)
    }
    found: list[tuple[int, int]] = []
    for hour in sorted(hours, reverse=True):
        since_ms, until_ms = hour * HOUR_MS, (hour + 1) * HOUR_MS - 1
        if found and found[-1][0] == until_ms + 1 and found[-1][1] - since_ms < SPAN_MS:
            until_ms = found.pop()[1]
        found.append((since_ms, until_ms))
    return found


def flaw_of(head: SegmentHead, node: str, tenant: str, now_ms: int) -> str | None:
    """Why a hub does not take a segment that a node sent for a tenant; None: it does."""
    if (head.node, head.tenant) != (node, tenant):
        return f"it is {head.node}'s of {head.tenant}, not {node}'s of {tenant}"
    if head.version != 1:
        return f"version {head.version} is not known here"
    if not head.first_ms <= head.last_ms <= now_ms + DAY_MS:
        return "its times are not in order, or not over"
    if head.last_ms - head.first_ms > SEGMENT_SPAN_MS:
        return "it spans more than a day"
    return None


def chain_doubts(around: Sequence[Segment], segment: Segment) -> list[str]:
    """Says what is wrong with the chain from one segment on; empty if every link holds.

    `around`: what there is of the same chain and tenant from the segment before it on, in the order of `seq`. Earlier
    ones may have gone by the tenant's policy.
    """
    found = []
    if segment.seq == 1 and segment.prev != GENESIS:
        found.append("the first segment of its chain names one before it")
    for i, right in enumerate(around[1:]):
        left = around[i]
        if right.seq == left.seq:
            found.append(f"the node sent two segments {left.seq}: {short(left.sha256)} and {short(right.sha256)}")
        elif right.seq != left.seq + 1:
            found.append(f"segments {left.seq + 1} to {right.seq - 1} of the chain never came, or were removed")
        elif right.prev != left.sha256:
            found.append(f"segment {right.seq} does not go on from segment {left.seq}")
    return found


def anchor_holds(segment: Segment) -> bool:
    """Tells whether the proof of a segment's anchor shows that it is under the anchor's root."""
    anchor = segment.anchor
    if anchor is None:
        return False
    return is_in(leaf(segment), anchor.at, AuditHead(size=anchor.size, root=anchor.root), anchor.path)


def leaf(segment: Segment) -> bytes:
    """A segment as a leaf of the tree that is anchored. Its digest covers its head: node, tenant and place."""
    return segment.sha256.encode()
