"""The evidence around an acknowledgement: the requests that a router admitted just before and after it.

Callers know when they sent a request and which release's tokens came back; the router's trace knows when it admitted
the request. Joined, they say which release answered on either side of the acknowledgement.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from incident.fleet import Fleet, Node
from incident.report import Window
from incident.traffic import Answer
from loradeck.schemas.state import TenantRow
from loradeck.schemas.trace import TraceRow

WINDOW_NS = 100_000_000
"""Either side of an acknowledgement."""

TRACED_S = 10.0
"""How long a router's trace may take to list requests that have been answered: their checks come after the answer."""


@dataclass
class Traces:
    """The routers' traces, read on from move to move."""

    fleet: Fleet
    _read: dict[tuple[str, int], int] = field(default_factory=dict)
    """Node and its agent's process -> the last row that was read. A new one may have a new router, and numbers."""

    async def windows(self, row: TenantRow, left: str, answers: Sequence[Answer]) -> tuple[Window, ...]:
        """The windows around the acknowledgements of a move, one for each replica that gave one.

        Args:
            row: the pointer after the move.
            left: the release that the move left.
            answers: what was asked around the move and after the move before, all of it answered.
        """
        return tuple(
            await asyncio.gather(
                *(
                    self._window(replica.node, replica.flipped_mono_ns, left, answers)
                    for replica in row.replicas
                    if replica.flipped_mono_ns is not None
                )
            )
        )

    async def admitted(self, requests: set[str]) -> dict[str, tuple[str, TraceRow]]:
        """The node that admitted each of these requests, by its trace; fewer if not all are listed in ten seconds."""
        deadline, found = time.monotonic() + TRACED_S, dict[str, tuple[str, TraceRow]]()
        while len(found) < len(requests) and time.monotonic() < deadline:
            for node in self.fleet.nodes:
                found |= {request: (node.name, row) for request, row in (await self._read_on(node, requests)).items()}
            await asyncio.sleep(0.05)
        return found

    async def _window(self, name: str, ack_ns: int, left: str, answers: Sequence[Answer]) -> Window:
        own = [answer for answer in answers if answer.node == name]
        trace = await self._rows(name, {answer.id for answer in own if answer.ok})
        return judge_window(name, ack_ns, left, own, trace)

    async def _rows(self, name: str, requests: set[str]) -> dict[str, TraceRow]:
        """The rows of these requests in a node's trace, by request; fewer if they are not listed in ten seconds."""
        node = next(node for node in self.fleet.nodes if node.name == name)
        deadline = time.monotonic() + TRACED_S
        found: dict[str, TraceRow] = {}
        while True:
            found |= await self._read_on(node, requests)
            if len(found) == len(requests) or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.05)

    async def _read_on(self, node: Node, requests: set[str]) -> dict[str, TraceRow]:
        """The rows of these requests among those that a node's trace lists since it was read last."""
        key, found = (node.name, node.process.pid if node.process is not None else 0), dict[str, TraceRow]()
        for document in await asyncio.to_thread(self.fleet.trace, node, self._read.get(key, 0)):
            self._read[key] = document["seq"]
            if document["request"] in requests:
                found[document["request"]] = TraceRow.model_validate(document)
        return found


def judge_window(node: str, ack_ns: int, left: str, answers: Sequence[Answer], trace: Mapping[str, TraceRow]) -> Window:
    """Counts the requests that a router admitted within 100 ms of its acknowledgement, by the release that answered.

    An answer whose admission is not in the trace is judged by the time it was sent, which is earlier: so it can
    count as late only if it truly was.
    """
    before = after = late = undecided = failed = 0
    by: Counter[str] = Counter()
    for answer in answers:
        row = trace.get(answer.id)
        at = row.admitted_mono_ns if row is not None else answer.sent_ns
        if not answer.ok:
            failed += 1
            continue
        who = answer.by
        # Late is late, however long after the acknowledgement.
        if at > ack_ns and who == left:
            late += 1
        if abs(at - ack_ns) > WINDOW_NS:
            continue
        before, after = (before, after + 1) if at > ack_ns else (before + 1, after)
        if who is None:
            undecided += 1
        else:
            by[who] += 1
    return Window(
        node=node, before=before, after=after, answered_by=dict(by), late=late, undecided=undecided, failed=failed
    )
