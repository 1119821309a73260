"""The incident itself: a bad release is live, and is put back; twenty moves, each judged by its answers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from incident.fleet import Fleet, NotReady
from incident.progress import Progress
from incident.report import Move, Report, Window
from incident.traffic import Answer, Callers, Prompt
from loradeck.client.api import HubApi
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.request import rollback_request
from loradeck.schemas.link import AckState
from loradeck.schemas.moves import (
    HoldRequest,
    LiftRequest,
    MoveResult,
    PromoteRequest,
    UndoRequest,
)
from loradeck.schemas.state import PreviewAction, TenantRow
from loradeck.schemas.trace import TraceRow

ROUTE = "production"
WINDOW_NS = 100_000_000
"""Either side of an acknowledgement."""

LEAD_S = 0.09
"""Requests start this long before a move."""

SPACING_S = 0.004
THIN_S = 0.5
"""Between the requests of the stream that goes on while a promote prepares: engines must get to its canaries."""

STEADY = 50
"""At most so many at that pace: an engine is not to be buried by a move that takes long."""

AFTER = 18
BURST = 26


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who plays: the tenant, its releases by label, and prompts that tell them apart."""

    tenant: str
    releases: Mapping[str, str]
    prompts: Sequence[Prompt]

    def telling(self, one: str, other: str) -> list[Prompt]:
        """Prompts whose short answers differ between two releases.

        Raises:
            NotReady: there are too few to judge anything by.
        """
        found = [prompt for prompt in self.prompts if prompt.separates(one, other)]
        if len(found) < 3:
            raise NotReady(f"only {len(found)} prompts tell the two releases apart; nothing could be judged by tokens")
        return found


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What whoever made a move saw of it. `flipped_ns`: CLOCK_MONOTONIC when told FLIPPED; None: was not."""

    commit_ms: float
    flipped_ns: int | None


@dataclass(kw_only=True)
class _Made:
    """A move that was made, before its answers are judged."""

    kind: str
    left: str
    to: str
    row: TenantRow
    seen: Seen
    proven_ms: float | None
    answers: Sequence[Answer]


class Incident:
    def __init__(
        self,
        fleet: Fleet,
        api: HubApi,
        callers: Callers,
        cast: Cast,
        report: Report,
        progress: Progress,
        *,
        proven_within_s: float = 60.0,
        after: int = AFTER,
    ) -> None:
        """`after`: requests at each router right after a move; an engine that is slow is given fewer."""
        self._fleet = fleet
        self._api = api
        self._callers = callers
        self._cast = cast
        self._report = report
        self._progress = progress
        self._proven_within_s = proven_within_s
        self._after = after
        self._made: list[_Made] = []

    async def row(self) -> TenantRow:
        return await self._api.row(self._cast.tenant, ROUTE)

    # -- moves -----------------------------------------------------------------------------------------

    async def rollback(self) -> None:
        """R: to where the row's preview says, at the generation it says."""
        row = await self.row()
        target = _target(row)
        request = rollback_request(row.preview, key=new_key(), reason="bad answers")
        await self._around(
            "R", row, target, self._sent(lambda: self._api.rollback(*self._at, request, wait="flipped", timeout=10))
        )

    async def rollback_by(self, press: Callable[[], Awaitable[Seen]]) -> None:
        """R, by whoever `press` is; it says when it saw the move."""
        row = await self.row()
        await self._around("R", row, _target(row), press)

    async def undo(self) -> None:
        """u: the last move, back as it was."""
        row = await self.row()
        event = row.last_event
        if event is None or event.from_release is None:
            raise NotReady("there is no move to undo")
        request = UndoRequest(event=row.pointer.last_move, idempotency_key=new_key(), reason="second look")
        await self._around(
            "u",
            row,
            event.from_release,
            self._sent(lambda: self._api.undo(*self._at, request, wait="flipped", timeout=10)),
        )

    async def promote(self, label: str, *, override: str = "") -> None:
        """Through the gate, or past it with a reason. A hold or quarantine is ended first, as a person would."""
        release = self._cast.releases[label]
        row = await clear_the_way(self._api, self._cast.tenant, release)
        request = promotion(row, release, override=override)
        await self._around(
            "promote",
            row,
            release,
            self._sent(lambda: self._api.promote(*self._at, request, wait="flipped", timeout=60), prepared=True),
        )

    @property
    def _at(self) -> tuple[str, str]:
        return (self._cast.tenant, ROUTE)

    def _sent(
        self, move: Callable[[], Awaitable[MoveResult]], *, prepared: bool = False
    ) -> Callable[[], Awaitable[Seen]]:
        """A move over the hub's API, timed as its caller sees it."""

        async def send() -> Seen:
            began = time.monotonic_ns()
            result = await move()
            seen_ns = time.monotonic_ns()
            if not result.events:
                raise NotReady(f"the move was not committed in time; its prepare is still pending: {result.pending}")
            in_hub = result.commit_ms or 0.0
            total_ms = (seen_ns - began) / 1e6
            return Seen(
                # A promote prepares for as long as it takes; only its commit is timed.
                commit_ms=in_hub if prepared else max(in_hub, total_ms - (result.flipped_ms or 0.0)),
                flipped_ns=seen_ns if result.reached in ("flipped", "proven") else None,
            )

        return send

    async def _around(self, kind: str, row: TenantRow, to: str, move: Callable[[], Awaitable[Seen]]) -> None:
        """Make a move in the middle of a burst of requests, and wait until it is proven."""
        left = row.pointer.release or ""
        prompts = self._cast.telling(left, to)
        prepared = kind == "promote"
        number = len(self._made) + 1
        names = f"{self._report.label(left)} > {self._report.label(to)}"
        with self._progress.step(f"move {number}: {kind} {names}") as step:
            asked: list[asyncio.Task[Answer]] = []
            # A promote prepares for an unknown time first: a thin stream until it commits, the burst right after.
            sender = asyncio.create_task(self._thin(asked, prompts) if prepared else self._steady(asked, prompts))
            await asyncio.sleep(LEAD_S)
            try:
                seen = await move()
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
            # However long it took, enough of them come right after the acknowledgement.
            await self._burst(asked, prompts, BURST if prepared else self._after)
            after = await self._until_proven(step, row.pointer.generation + 1)
            step.update("waiting for the last answers")
            answers = await asyncio.gather(*asked)
            proven = [r.proven_ms for r in after.replicas if r.proven_ms is not None]
            self._made.append(
                _Made(
                    kind=kind,
                    left=left,
                    to=to,
                    row=after,
                    seen=seen,
                    proven_ms=max(proven) if len(proven) == len(after.replicas) and proven else None,
                    answers=answers,
                )
            )

    async def _thin(self, asked: list[asyncio.Task[Answer]], prompts: Sequence[Prompt]) -> None:
        while True:
            asked += await self._callers.burst(self._cast.tenant, prompts, 1, spacing_s=THIN_S)

    async def _steady(self, asked: list[asyncio.Task[Answer]], prompts: Sequence[Prompt]) -> None:
        for turn in range(STEADY):
            prompt = prompts[turn % len(prompts)]
            asked += await self._callers.burst(self._cast.tenant, [prompt], 1, spacing_s=SPACING_S)

    async def _burst(self, asked: list[asyncio.Task[Answer]], prompts: Sequence[Prompt], count: int) -> None:
        asked += await self._callers.burst(self._cast.tenant, prompts, count, spacing_s=0.0)

    async def _until_proven(self, step: Progress, generation: int) -> TenantRow:
        deadline = time.monotonic() + self._proven_within_s
        done = {AckState.PROVEN, AckState.LISTED, AckState.FAILED}
        while True:
            row = await self.row()
            states = [replica.state for replica in row.replicas]
            step.update(f"flipped {row.flipped}/{row.placed}, proven {row.proven}/{row.placed}")
            if row.pointer.generation == generation and states and all(state in done for state in states):
                return row
            if time.monotonic() > deadline:
                return row
            await asyncio.sleep(0.05)

    # -- judging ---------------------------------------------------------------------------------------

    async def judge(self) -> None:
        """Join what the callers saw with when the routers admitted it, and put the moves in the report."""
        traces = {node.name: await asyncio.to_thread(self._trace, node.name) for node in self._fleet.nodes}
        for number, made in enumerate(self._made, 1):
            windows = []
            for replica in made.row.replicas:
                if replica.flipped_mono_ns is None:
                    continue
                windows.append(
                    judge_window(
                        replica.node,
                        replica.flipped_mono_ns,
                        made.left,
                        [answer for answer in made.answers if answer.node == replica.node],
                        traces[replica.node],
                    )
                )
            flips = [r.flipped_ms for r in made.row.replicas if r.flipped_ms is not None]
            self._report.moves.append(
                Move(
                    n=number,
                    kind=made.kind,
                    left=made.left,
                    to=made.to,
                    generation=made.row.pointer.generation,
                    commit_ms=made.seen.commit_ms,
                    flipped_ms=max(flips) if len(flips) == made.row.placed and flips else None,
                    proven_ms=made.proven_ms,
                    levels={r.replica: r.state.value if r.state else "none" for r in made.row.replicas},
                    windows=tuple(windows),
                    seen_late=sum(
                        1
                        for answer in made.answers
                        if made.seen.flipped_ns and answer.sent_ns > made.seen.flipped_ns and answer.by == made.left
                    ),
                )
            )

    def _trace(self, name: str) -> dict[str, TraceRow]:
        node = next(node for node in self._fleet.nodes if node.name == name)
        rows = [TraceRow.model_validate(row) for row in self._fleet.agent_cli(node, "trace")]
        return {row.request: row for row in rows if row.status}


def _target(row: TenantRow) -> str:
    preview = row.preview
    if preview.action is not PreviewAction.ROLLBACK or preview.target is None:
        raise NotReady(f"R has nowhere to go: {preview.refused or preview.action.value}")
    return preview.target.id


async def clear_the_way(api: HubApi, tenant: str, release: str) -> TenantRow:
    """End what would refuse a promote: the hold of a rollback, and the release's quarantine. The row after that."""
    row = await api.row(tenant, ROUTE)
    if row.pointer.held:
        hold = HoldRequest(
            held=False,
            expected_generation=row.pointer.generation,
            idempotency_key=new_key(),
            reason="looked at; going forward again",
        )
        await api.hold(tenant, ROUTE, hold)
    if any(entry.release == release for entry in row.pointer.quarantined):
        lift = LiftRequest(release=release, idempotency_key=new_key(), reason="rolled back from for the demo only")
        await api.lift(tenant, ROUTE, lift)
    return await api.row(tenant, ROUTE)


def promotion(row: TenantRow, release: str, *, override: str = "") -> PromoteRequest:
    return PromoteRequest(
        release=release,
        expected_generation=row.pointer.generation,
        idempotency_key=new_key(),
        override=bool(override),
        reason=override,
    )


def judge_window(node: str, ack_ns: int, left: str, answers: Sequence[Answer], trace: Mapping[str, TraceRow]) -> Window:
    """Count the requests that a router admitted within 100 ms of its acknowledgement, by who answered them.

    An answer whose admission is not in the trace is judged by when it was sent, which is earlier: so it can
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
