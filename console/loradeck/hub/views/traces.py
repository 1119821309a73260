"""Traces: which requests each release answered, asked of the routers when somebody wants to know. None is kept here."""

import asyncio
from dataclasses import dataclass, field

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.links.questions import Questions
from loradeck.hub.log.clock import Clock
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import TRACE_ROWS, TraceAsk, TraceRows
from loradeck.schemas.trace import NodeTraced, Traced, TraceRow

ANSWER_S = 5.0
"""How long a node may take for one answer, seconds."""


@dataclass(eq=False)
class Traces:
    """Collects the requests that routers remember, a page at a time."""

    _fleet: Fleet
    _replicas: PlacedReplicas
    _counts: RequestCounts
    _clock: Clock
    questions: Questions[TraceRows] = field(default_factory=Questions, init=False)

    async def collect(self, key: PointerKey, release: str | None, last: int) -> Traced:
        """The newest requests of a pointer, from all nodes that serve or have served it: at most `last` of each."""
        found = await asyncio.gather(*(self._of_node(name, key, release, last) for name in sorted(self._nodes(key))))
        rows = sorted((row for _, part in found for row in part), key=lambda row: (row.admitted_ms, row.seq))
        return Traced(
            tenant=key[0],
            route=key[1],
            release=release,
            at_ms=self._clock.now_ms(),
            rows=tuple(rows),
            counted=self._counts.total(key, release).counts.finished if release is not None else None,
            nodes=tuple(node for node, _ in found),
        )

    async def find(self, key: PointerKey, request: str) -> list[tuple[str, TraceRow]]:
        """A request's rows on a pointer, with their nodes, as far as routers that are linked remember it."""

        async def of(name: str) -> list[tuple[str, TraceRow]]:
            node = self._fleet.nodes.get(name)
            page = await self._page(node, key, None, None, TRACE_ROWS, request) if node is not None else None
            return [(name, row) for row in page.rows if row.request == request] if page is not None else []

        found = await asyncio.gather(*map(of, sorted(self._nodes(key))))
        return [one for part in found for one in part]

    def _nodes(self, key: PointerKey) -> set[str]:
        """The nodes that serve a pointer, or have served it."""
        names = {node.name for node, _ in self._replicas.placed(key)}
        served = {self._fleet.node_of(counter.replica) for counter in self._counts.counters(key)}
        return names | {name for name in served if name is not None}

    async def _of_node(
        self, name: str, key: PointerKey, release: str | None, last: int
    ) -> tuple[NodeTraced, list[TraceRow]]:
        node = self._fleet.nodes.get(name)
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
        self,
        node: Node,
        key: PointerKey,
        release: str | None,
        before: int | None,
        last: int,
        request: str | None = None,
    ) -> TraceRows | None:
        def question(token: str) -> TraceAsk:
            tenant, route = key
            return TraceAsk(
                ask=token, tenant=tenant, route=route, release=release, request=request, before=before, last=last
            )

        return await self.questions.put(node, question, ANSWER_S)
