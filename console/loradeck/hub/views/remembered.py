"""Requests that nodes remember: which release answered each, and samples of bad answers with their questions.

Nodes are asked when somebody wants to know. Nothing of it is kept here.
"""

import asyncio
from dataclasses import dataclass, field

from loradeck.hub.access.auth import Caller
from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.links.questions import Questions
from loradeck.hub.log.audit import AuditTrail, draft_of
from loradeck.hub.log.runtime import Clock
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.link import TRACE_ROWS, SampleAsk, SampleRows, TraceAsk, TraceRows
from loradeck.schemas.sample import NodeSample, NodeSampled, Sampled
from loradeck.schemas.trace import NodeTraced, Traced, TraceRow

ANSWER_S = 5.0
"""How long a node may take for one answer, seconds."""

READING = "GET /v1/tenants/{tenant}/routes/{route}/samples"
"""The call of the audit trail's line about a reading."""


@dataclass(eq=False)
class Samples:
    """Reads the samples of a route's nodes, for somebody who may."""

    _state: FoldedLog
    _replicas: PlacedReplicas
    _audit: AuditTrail
    _clock: Clock
    questions: Questions[SampleRows] = field(default_factory=Questions, init=False)

    async def read(self, key: PointerKey, release: str | None, last: int, caller: Caller) -> Sampled:
        """The newest samples of each node that serves a route, `last` of each at most.

        The reading is in the audit trail before its answer goes out.

        Raises:
            Refused: `samples_not_kept`: the tenant has not agreed to any.
            StoreError: the audit trail cannot be written. Nothing is given out.
        """
        tenant, hours = key[0], self._hours(key[0])
        if not hours:
            raise Refused(
                "samples_not_kept",
                f"{tenant} has no samples of its answers kept",
                fix=f"loradeck tenant data {tenant} --sample-hours 24 --reason WHY keeps those from then on",
            )
        found = await self._ask(key, release, last)
        rows = sorted((row for _, part in found for row in part), key=lambda row: row.at_ms)
        subject = {
            **{"tenant": tenant, "route": key[1], "release": release or "all"},
            **{"samples": str(len(rows)), "nodes": " ".join(node.node for node, part in found if part)},
        }
        await self._audit.write(draft_of(caller, READING, subject))
        return Sampled(
            tenant=tenant,
            route=key[1],
            release=release,
            at_ms=self._clock.now_ms(),
            hours=hours,
            rows=tuple(rows),
            nodes=tuple(node for node, _ in found),
        )

    async def count(self, key: PointerKey, release: str) -> int | None:
        """Counts the samples of a release that nodes keep, as far as they answer; None: its tenant has none kept."""
        if not self._hours(key[0]):
            return None
        return sum(node.kept for node, _ in await self._ask(key, release, 0))

    def _hours(self, tenant: str) -> int:
        return self._state.tenant(tenant).keeps.sample_hours

    async def _ask(self, key: PointerKey, release: str | None, last: int) -> list[tuple[NodeSampled, list[NodeSample]]]:
        nodes = {node.name: node for node, _ in self._replicas.serving(key)}
        return list(await asyncio.gather(*(self._of_node(nodes[name], key, release, last) for name in sorted(nodes))))

    async def _of_node(
        self, node: Node, key: PointerKey, release: str | None, last: int
    ) -> tuple[NodeSampled, list[NodeSample]]:
        if node.link is None:
            return NodeSampled(node=node.name, why="not linked"), []
        tenant, route = key
        answer = await self.questions.put(
            node,
            lambda token: SampleAsk(ask=token, tenant=tenant, route=route, release=release, last=last),
            ANSWER_S,
        )
        if answer is None:
            return NodeSampled(node=node.name, why=f"no answer within {ANSWER_S:g} s"), []
        rows = (
            [
                NodeSample(**row.model_dump(), node=node.name)
                for row in answer.samples
                if (row.tenant, row.route) == key and release in (None, row.release)
            ][-last:]
            if last
            else []
        )
        why = answer.trouble
        if len(rows) < len(answer.samples):
            why = why or "it sent samples that were not asked for"
        return NodeSampled(node=node.name, kept=max(0, answer.kept), why=why), rows


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
