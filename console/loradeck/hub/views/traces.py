"""Traces: who was served by which release, asked of the routers when somebody wants to know. Nothing is kept here."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import TRACE_ROWS, TraceAsk, TraceRows
from loradeck.schemas.trace import NodeTraced, Traced, TraceRow

if TYPE_CHECKING:
    from loradeck.hub.fleet.nodes import Node
    from loradeck.hub.hub import Hub

ANSWER_S = 5.0
"""How long one node has for one answer."""


class Traces:
    """Questions that are under way, by the word that comes back with the answer."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._asked: dict[str, tuple[str, asyncio.Future[TraceRows]]] = {}

    def answered(self, node: Node, answer: TraceRows) -> None:
        """A node's answer. One that nobody waits for, or another node's, says nothing."""
        name, waiting = self._asked.get(answer.ask, ("", None))
        if waiting is not None and name == node.name and not waiting.done():
            waiting.set_result(answer)

    async def collect(self, key: PointerKey, release: str | None, last: int) -> Traced:
        """A pointer's newest requests of all nodes that serve or have served it, at most `last` of each."""
        hub = self._hub
        names = {node.name for node, _ in hub.observer.placed(key)}
        served = {hub.fleet.node_of(counter.replica) for counter in hub.counts.counters(key)}
        names |= {name for name in served if name is not None}
        found = await asyncio.gather(*(self._of_node(name, key, release, last) for name in sorted(names)))
        rows = sorted((row for _, part in found for row in part), key=lambda row: (row.admitted_ms, row.seq))
        return Traced(
            tenant=key[0],
            route=key[1],
            release=release,
            at_ms=hub.now_ms(),
            rows=tuple(rows),
            counted=hub.counts.total(key, release).counts.requests if release is not None else None,
            nodes=tuple(told for told, _ in found),
        )

    async def _of_node(
        self, name: str, key: PointerKey, release: str | None, last: int
    ) -> tuple[NodeTraced, list[TraceRow]]:
        node = self._hub.fleet.nodes.get(name)
        rows: list[TraceRow] = []
        if node is None or node.link is None:
            return NodeTraced(node=name, why="not linked"), rows
        before: int | None = None
        while True:
            wanted = min(TRACE_ROWS, last - len(rows))
            page = await self._page(node, key, release, before, wanted)
            if page is None:
                return NodeTraced(node=name, rows=len(rows), why=f"no answer within {ANSWER_S:g} s"), rows
            if page.trouble:
                return NodeTraced(node=name, rows=len(rows), why=page.trouble), rows
            rows = [*page.rows, *rows]
            if not page.more or not page.rows:
                why = "its router keeps its newest requests only" if page.turned_over else ""
                complete = not page.turned_over
                return NodeTraced(node=name, rows=len(rows), complete=complete, why=why, since_ms=page.since_ms), rows
            if len(rows) >= last:
                return NodeTraced(node=name, rows=len(rows), why=f"the newest {last:,} were asked for"), rows
            before = page.rows[0].seq

    async def _page(
        self, node: Node, key: PointerKey, release: str | None, before: int | None, last: int
    ) -> TraceRows | None:
        ask = secrets.token_hex(8)
        waiting: asyncio.Future[TraceRows] = asyncio.get_running_loop().create_future()
        self._asked[ask] = (node.name, waiting)
        try:
            if node.link is None:
                return None
            node.link.put_message(
                TraceAsk(ask=ask, tenant=key[0], route=key[1], release=release, before=before, last=last)
            )
            async with asyncio.timeout(ANSWER_S):
                return await waiting
        except TimeoutError:
            return None
        finally:
            del self._asked[ask]
