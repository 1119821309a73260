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
from loradeck.client.api import HubApi, new_key
from loradeck.schemas.link import AckState
from loradeck.schemas.moves import (
    HoldRequest,
    LiftRequest,
    MoveResult,
    PromoteRequest,
    RollbackRequest,
    UndoRequest,
)
from loradeck.schemas.state import PreviewAction, TenantRow
from loradeck.schemas.trace import TraceRow

ROUTE = "production"
WINDOW_NS = 100_000_000
"""Either side of an acknowledgement."""

LEAD_S = 0.08
"""A burst starts this long before its move."""

SPACING_S = 0.0055
BURST = 30


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


@dataclass(kw_only=True)
class _Made:
    """A move that was made, before its answers are judged."""

    kind: str
    left: str
    to: str
    row: TenantRow
    commit_ms: float
    proven_ms: float | None
    seen_flipped_ns: int
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
    ) -> None:
        self._fleet = fleet
        self._api = api
        self._callers = callers
        self._cast = cast
        self._report = report
        self._progress = progress
        self._proven_within_s = proven_within_s
        self._made: list[_Made] = []
        self._last: MoveResult | None = None

    async def row(self) -> TenantRow:
        return await self._api.row(self._cast.tenant, ROUTE)

    # -- moves -----------------------------------------------------------------------------------------

    async def rollback(self) -> None:
        """R: to where the row's preview says, at the generation it says."""
        row = await self.row()
        preview = row.preview
        if preview.action is not PreviewAction.ROLLBACK or preview.target is None:
            raise NotReady(f"R has nowhere to go: {preview.refused or preview.action.value}")
        request = RollbackRequest(
            expected_generation=preview.generation,
            to=preview.target.id,
            confirmed=preview.asks is not None,
            idempotency_key=new_key(),
            reason="bad answers",
        )
        await self._around(
            "R",
            row,
            preview.target.id,
            lambda: self._api.rollback(self._cast.tenant, ROUTE, request, wait="flipped", timeout=10),
        )

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
            lambda: self._api.undo(self._cast.tenant, ROUTE, request, wait="flipped", timeout=10),
        )

    async def promote(self, label: str, *, override: str = "") -> None:
        """Through the gate, or past it with a reason. A hold or quarantine is ended first, as a person would."""
        release = self._cast.releases[label]
        row = await self.row()
        if row.pointer.held:
            hold = HoldRequest(
                held=False,
                expected_generation=row.pointer.generation,
                idempotency_key=new_key(),
                reason=f"{label} is wanted back",
            )
            await self._api.hold(self._cast.tenant, ROUTE, hold)
        if any(entry.release == release for entry in row.pointer.quarantined):
            lift = LiftRequest(release=release, idempotency_key=new_key(), reason=f"{label} was not at fault")
            await self._api.lift(self._cast.tenant, ROUTE, lift)
        row = await self.row()
        request = PromoteRequest(
            release=release,
            expected_generation=row.pointer.generation,
            idempotency_key=new_key(),
            override=bool(override),
            reason=override,
        )
        await self._around(
            "promote",
            row,
            release,
            lambda: self._api.promote(self._cast.tenant, ROUTE, request, wait="flipped", timeout=60),
        )

    async def _around(self, kind: str, row: TenantRow, to: str, move: Callable[[], Awaitable[MoveResult]]) -> None:
        """Make a move in the middle of a burst of requests, and wait until it is proven."""
        left = row.pointer.release or ""
        prompts = self._cast.telling(left, to)
        prepared = kind == "promote"
        number = len(self._made) + 1
        names = f"{self._report.label(left)} > {self._report.label(to)}"
        with self._progress.step(f"move {number}: {kind} {names}") as step:
            asked: list[asyncio.Task[Answer]] = []
            # A promote prepares for an unknown time first: a thin stream until it commits, the burst right after.
            sender = asyncio.create_task(self._send(asked, prompts, thin=prepared))
            await asyncio.sleep(LEAD_S)
            began = time.monotonic()
            result = await move()
            seen_flipped_ns = time.monotonic_ns()
            total_ms = (time.monotonic() - began) * 1000
            if prepared:
                sender.cancel()
                await self._callers_burst(asked, prompts, spacing_s=0.0)
            await asyncio.gather(sender, return_exceptions=True)
            self._last = result
            after = await self._until_proven(step, result)
            step.update("waiting for the last answers")
            answers = await asyncio.gather(*asked)
            proven = [r.proven_ms for r in after.replicas if r.proven_ms is not None]
            in_hub = result.commit_ms or 0.0
            self._made.append(
                _Made(
                    kind=kind,
                    left=left,
                    to=to,
                    row=after,
                    commit_ms=in_hub if prepared else max(in_hub, total_ms - (result.flipped_ms or 0.0)),
                    proven_ms=max(proven) if len(proven) == len(after.replicas) and proven else None,
                    seen_flipped_ns=seen_flipped_ns if result.reached in ("flipped", "proven") else 0,
                    answers=answers,
                )
            )

    async def _send(self, asked: list[asyncio.Task[Answer]], prompts: Sequence[Prompt], *, thin: bool) -> None:
        if not thin:
            await self._callers_burst(asked, prompts, spacing_s=SPACING_S)
            return
        while True:
            asked += await self._callers.burst(self._cast.tenant, prompts, 1, spacing_s=0.06)

    async def _callers_burst(
        self, asked: list[asyncio.Task[Answer]], prompts: Sequence[Prompt], *, spacing_s: float
    ) -> None:
        asked += await self._callers.burst(self._cast.tenant, prompts, BURST, spacing_s=spacing_s)

    async def _until_proven(self, step: Progress, result: MoveResult) -> TenantRow:
        generation = max((event.generation or 0 for event in result.events), default=0)
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
                    commit_ms=made.commit_ms,
                    flipped_ms=max(flips) if len(flips) == made.row.placed and flips else None,
                    proven_ms=made.proven_ms,
                    levels={r.replica: r.state.value if r.state else "none" for r in made.row.replicas},
                    windows=tuple(windows),
                    seen_late=sum(
                        1
                        for answer in made.answers
                        if made.seen_flipped_ns and answer.sent_ns > made.seen_flipped_ns and answer.by == made.left
                    ),
                )
            )

    def _trace(self, name: str) -> dict[str, TraceRow]:
        node = next(node for node in self._fleet.nodes if node.name == name)
        rows = [TraceRow.model_validate(row) for row in self._fleet.agent_cli(node, "trace")]
        return {row.request: row for row in rows if row.status}


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
