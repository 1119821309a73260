"""What nodes are asked when somebody wants to know: requests that they remember, samples of bad answers, and canaries.

Nothing of their answers is kept here.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from loradeck.hub.access.auth import Caller
from loradeck.hub.data.datasets import Datasets
from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.audit import AuditTrail, draft_of
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.request_counts import RequestCounts
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.serving import canaries
from loradeck.rules.serving.placement import Site
from loradeck.schemas.attestation import CanaryItem
from loradeck.schemas.ids import Digest, PointerKey, short
from loradeck.schemas.link import (
    TRACE_ROWS,
    CanaryAnswers,
    CanaryAsk,
    DownMessage,
    Replica,
    SampleAsk,
    SampleRows,
    TraceAsk,
    TraceRows,
)
from loradeck.schemas.log import PointerState
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.route import RowPrompt, Suggestion, Suggestions, SuggestRequest
from loradeck.schemas.table import ReleaseRef
from loradeck.schemas.trace import NodeSample, NodeSampled, NodeTraced, Sampled, Traced, TraceRow

Answer = TypeVar("Answer", TraceRows, SampleRows, CanaryAnswers)


@dataclass(eq=False)
class Questions(Generic[Answer]):
    """The questions of one kind that wait for an answer."""

    _asked: dict[str, tuple[str, asyncio.Future[Answer]]] = field(default_factory=dict, init=False)

    def answered(self, node: Node, answer: Answer) -> None:
        """Hands a node's answer to whoever waits for it. One that nobody waits for, or another node's, is dropped."""
        name, waiting = self._asked.get(answer.ask, ("", None))
        if waiting is not None and name == node.name and not waiting.done():
            waiting.set_result(answer)

    async def put(self, node: Node, question: Callable[[str], DownMessage], seconds: float) -> Answer | None:
        """Sends `question(token)` to a node and returns its answer; None: not linked, or no answer in `seconds`."""
        token = secrets.token_hex(8)
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[token] = (node.name, waiting)
        try:
            if node.link is None:
                return None
            node.link.put_message(question(token))
            async with asyncio.timeout(seconds):
                return await waiting
        except TimeoutError:
            return None
        finally:
            del self._asked[token]


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
            "tenant": tenant,
            "route": key[1],
            "release": release or "all",
            "samples": str(len(rows)),
            "nodes": " ".join(node.node for node, part in found if part),
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


PROMPT_S = 120.0
"""How long a node may take for one prompt, seconds: the first may have to load the release."""

AT_ONCE = 2
"""Prompts that are asked at once, so that callers are hardly kept waiting."""


@dataclass(eq=False)
class CanarySuggestions:
    """Measures how surely rows of a dataset tell a release from its base and from the other releases of a pointer."""

    _state: FoldedLog
    _catalogue: Catalogue
    _datasets: Datasets
    _fleet: Fleet
    questions: Questions[CanaryAnswers] = field(default_factory=Questions, init=False)

    async def suggest(self, key: PointerKey, request: SuggestRequest) -> Suggestions:
        """Tries prompts of a dataset on an engine that is up with the release's base.

        Raises: Refused: `unknown_release`, `unknown_dataset`, `erased_row`, `nothing_to_compare`, `no_prompts`,
        `no_replica`, `unanswered`.
        """
        tenant, _, pointer = self._state.route(*key)
        release = self._catalogue.known(tenant.name, request.release)
        others = self._others(pointer, release)
        if not others:
            raise Refused(
                "nothing_to_compare",
                "only an adapter's release needs canaries that tell it from others",
                detail=f"{self._catalogue.called(release.id)} is all that its engine can answer with",
            )
        prompts = await self._datasets.prompts(tenant.name, request.dataset, request.prompts)
        node, replica = self._replica(release, self._state.site(key))
        refs = tuple(ReleaseRef(id=one.id, release=one, label=one.label) for one in (release, *others))
        turn = asyncio.Semaphore(AT_ONCE)

        async def tried(prompt: RowPrompt) -> CanaryAnswers:
            def question(token: str) -> CanaryAsk:
                return CanaryAsk(ask=token, replica=replica.replica, releases=refs, messages=prompt.messages)

            async with turn:
                answer = await self.questions.put(node, question, PROMPT_S)
            if answer is None:
                raise Refused(
                    "unanswered",
                    f"{node.name} does not answer",
                    detail=f"none within {PROMPT_S:g} s; an agent of an earlier version does not know the question",
                    fix=f"loradeck node show {node.name}",
                )
            if release.id not in answer.items:
                why = answer.trouble.get(release.id, "it gave no answer")
                raise Refused("unanswered", f"{replica.replica} cannot be asked for the release", detail=why)
            return answer

        first = await tried(prompts[0])  # alone: it may load the release, or say at once that it cannot
        answers = [first, *await asyncio.gather(*(tried(prompt) for prompt in prompts[1:]))]
        return self._suggestions(release, others, replica, prompts, answers)

    def _others(self, pointer: PointerState, release: Release) -> list[Release]:
        """The releases that an engine could answer with instead: the base alone, the live one, and where R goes."""
        if release.form is not Form.ADAPTER:
            return []
        found = {base.id: base for base in [Release.of_base(release.tenant, release.base)]}
        for digest in (pointer.release, *pointer.beneath[:1]):
            other = self._catalogue.release(digest, release.tenant) if digest is not None else None
            if other is not None and other.id != release.id and other.served_base == release.served_base:
                found[other.id] = other
        return list(found.values())

    def _replica(self, release: Release, site: Site) -> tuple[Node, Replica]:
        placed = [
            (node, replica)
            for node in sorted(self._fleet.linked(), key=lambda node: node.name)
            for replica in node.replicas
            if replica.state is EngineState.UP
            and replica.base == release.served_base
            and site.holds(node.name, node.labels)
            and not node.drained
        ]
        if not placed:
            raise Refused(
                "no_replica",
                "no engine that is up has the release's base",
                detail=f"base {short(release.served_base)}",
                fix="loradeck node ls",
            )
        return min(placed, key=lambda found: release.id not in found[1].loaded)

    def _suggestions(
        self,
        release: Release,
        others: list[Release],
        replica: Replica,
        prompts: list[RowPrompt],
        answers: list[CanaryAnswers],
    ) -> Suggestions:
        trouble: dict[Digest, str] = {}
        for answer in answers:
            trouble.update(answer.trouble)
        asked = [other.id for other in others if other.id not in trouble]
        rivals: list[dict[Digest, CanaryItem]] = [{one: answer.items[one] for one in asked} for answer in answers]
        found = [
            canaries.margins(answer.items[release.id], rival) for answer, rival in zip(answers, rivals, strict=True)
        ]
        proposed = set(canaries.proposed(found))
        return Suggestions(
            release=release.id,
            replica=replica.replica,
            build=replica.build.key if replica.build else "",
            others={
                other.id: "the base alone" if other.form is Form.BASE else self._catalogue.called(other.id)
                for other in others
            },
            not_asked=trouble,
            prompts=tuple(
                Suggestion(
                    where=prompts[place].where,
                    messages=prompts[place].messages,
                    margin=canaries.smallest(found[place]),
                    margins=found[place],
                    proposed=place in proposed,
                )
                for place in canaries.ranked(found)
            ),
        )
