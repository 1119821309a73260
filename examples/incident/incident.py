"""The incident itself: a bad release is live, and is put back; twenty moves, each judged by its answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from incident.evidence import Traces
from incident.fleet import Fleet, NotReady
from incident.progress import Progress
from incident.report import Move, Report, Window
from incident.traffic import Answer, Callers, Prompt
from loradeck.client.api import HubApi
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import (
    CandidateAbortRequest,
    HoldRequest,
    LiftRequest,
    MoveResult,
    PromoteRequest,
    UndoRequest,
)
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.state import PreviewAction, TenantRow

ROUTE = "production"

Make = Callable[[int | None], Awaitable[Move]]
"""Makes a move. It takes the number of the planned move that is repeated or led back from; None if it is planned."""

LEAD_S = 0.06
"""Requests start this long before a move. A promote prepares first, and engines must get to its canaries: none then."""

SPACING_S = 0.006
STEADY = 26
"""At most so many at that pace: an engine is not to be buried by a move that takes long."""

AFTER = 6
"""At least so many right after a move, and more where few of those before it were sent close enough to it."""

CLOSE_NS = 80_000_000
"""Requests sent no longer before the end of a move count as close to its acknowledgements."""

MARGIN = 4
"""Requests beyond those that are needed: not each is admitted within its 100 ms. With the canaries they still fit into
one batch of an engine, and a move that takes a second batch takes half as long again."""

LOOK_S = 0.01
"""How often the hub is asked whether a move that a person makes has been committed."""

VARIETY = 4
"""Different prompts in a burst: few, so that an engine answers most of them from the prefixes that it keeps."""

TRIES = 5
"""How often a move is made until enough requests were admitted around its acknowledgements, the first included."""

MORE = 0.5
"""Share of a first try's requests that are added with each further one."""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who plays: the tenant, its releases by label, and prompts that tell them apart."""

    tenant: str
    releases: Mapping[str, str]
    prompts: Sequence[Prompt]

    def telling(self, one: str, other: str) -> list[Prompt]:
        """A few prompts whose short answers differ between two releases.

        Raises:
            NotReady: there are too few to judge anything by.
        """
        found = [prompt for prompt in self.prompts if prompt.separates(one, other)]
        if len(found) < 3:
            raise NotReady(f"only {len(found)} prompts tell the two releases apart; nothing could be judged by tokens")
        return found[:VARIETY]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A move as its maker saw it. `flipped_ns`: CLOCK_MONOTONIC when FLIPPED was shown; None if it was not yet."""

    commit_ms: float
    flipped_ns: int | None


Commit = Callable[[], Awaitable[Seen | asyncio.Task[Seen]]]
"""Returns once a move is committed; a task if its maker has not seen it yet."""


class Incident:
    """Makes moves in the middle of requests, and puts each into the report with what callers saw around it.

    A move with too few requests around one of its acknowledgements is led back and made again, with more requests;
    every try is in the report.
    """

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
        spacing_s: float = SPACING_S,
    ) -> None:
        """`after`: requests to each router right after a move; `spacing_s`: between two around it.

        A slow engine gets fewer of both.
        """
        self._traces = Traces(fleet)
        self._api = api
        self._callers = callers
        self._cast = cast
        self._report = report
        self._progress = progress
        self._proven_within_s = proven_within_s
        self._after = after
        self._spacing_s = spacing_s
        self._more = 1.0

    async def row(self) -> TenantRow:
        """The tenant's row as the hub has it now."""
        return await self._api.row(self._cast.tenant, ROUTE)

    # -- moves -----------------------------------------------------------------------------------------

    async def rollback(self) -> None:
        """R: to the release that the row's preview names, at the generation it names."""
        await self._with_evidence(self._rollback, back=self._undo)

    async def rollback_by(self, press: Callable[[], Awaitable[Seen]]) -> None:
        """R, pressed by `press`, which returns when it saw the move. A repeat is made over the hub's API."""

        async def pressed(of: int | None) -> Move:
            row = await self.row()
            self._report.previews.append(row.preview)

            async def until_committed() -> asyncio.Task[Seen]:
                pressing = asyncio.ensure_future(press())
                # A terminal shows the move later than routers flip: requests around that are timed by the hub.
                while not pressing.done() and (await self.row()).pointer.generation == row.pointer.generation:
                    await asyncio.wait({pressing}, timeout=LOOK_S)
                return pressing

            return await self._around("R", row, _target(row), until_committed, of)

        await self._with_evidence(pressed, back=self._undo, again=self._rollback)

    async def undo(self) -> None:
        """u: takes the last move back."""
        await self._with_evidence(self._undo, back=self._rollback)

    async def promote(self, label: str, *, override: str = "") -> None:
        """Through the gate, or past it with a reason. A hold or quarantine is ended first, as a person would."""

        async def promoted(of: int | None) -> Move:
            release = self._cast.releases[label]
            row = await clear_the_way(self._api, self._cast.tenant, release)
            request = promotion(row, release, override=override)

            # Answered at the commit, just before the routers flip: what is sent then is admitted around that.
            send = self._sent(lambda: self._api.send(*self._at, request, timeout=60), prepared=True)
            return await self._around("promote", row, release, send, of)

        await self._with_evidence(promoted, back=self._rollback)

    async def _rollback(self, of: int | None) -> Move:
        row = await self.row()
        self._report.previews.append(row.preview)
        request = rollback_request(row.preview, key=new_key(), reason="bad answers")
        send = self._sent(lambda: self._api.send(*self._at, request, wait="flipped", timeout=10))
        return await self._around("R", row, _target(row), send, of)

    async def _undo(self, of: int | None) -> Move:
        row = await self.row()
        event = row.last_event
        if event is None or event.from_release is None:
            raise NotReady("there is no move to undo")
        # Confirmed, as a person answers y: undoing an R serves again what was left, which is quarantined.
        request = UndoRequest(
            event=row.pointer.last_move, idempotency_key=new_key(), reason="second look", confirmed=True
        )
        send = self._sent(lambda: self._api.send(*self._at, request, wait="flipped", timeout=10))
        return await self._around("u", row, event.from_release, send, of)

    async def _with_evidence(self, make: Make, *, back: Make, again: Make | None = None) -> None:
        """Makes a move, leads back and makes it again until enough requests surround one try, or the tries are used up.

        Args:
            make: makes the move; it takes the number of the planned move that is repeated, None the first time.
            back: makes the move that leads back to where `make` began.
            again: makes the move again, if in another way than the first time.
        """
        move = first = await make(None)
        try:
            for _ in range(TRIES - 1):
                # A repeat adds evidence. It cannot mend a counterexample, or a move that was not proven.
                if move.late or move.proven_ms is None or not self._report.missing_around(move):
                    return
                self._more += MORE
                await back(first.n)
                move = await (again or make)(first.n)
        finally:
            self._more = 1.0

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
                flipped_ns=seen_ns if result.reached not in (None, "committed") else None,
            )

        return send

    async def _around(
        self,
        kind: str,
        row: TenantRow,
        to: str,
        make: Callable[[], Awaitable[Seen | asyncio.Task[Seen]]],
        of: int | None,
    ) -> Move:
        """Makes a move in the middle of a burst of requests, waits until it is proven, and judges its answers."""
        left = row.pointer.release or ""
        prompts = self._cast.telling(left, to)
        number = len(self._report.moves) + 1
        why = "" if of is None else f" (again for move {of}: too few requests around it)"
        names = f"{self._report.label(left)} > {self._report.label(to)}{why}"
        with self._progress.step(f"move {number}: {kind} {names}") as step:
            asked: list[asyncio.Task[Answer]] = []
            sent: list[int] = []
            await self._callers.connect(self._cast.tenant, round(STEADY * self._more))
            sender = asyncio.create_task(self._steady(asked, sent, prompts)) if kind != "promote" else None
            await asyncio.sleep(LEAD_S if sender is not None else 0)
            try:
                made = await make()
            finally:
                if sender is not None:
                    sender.cancel()
                    await asyncio.gather(sender, return_exceptions=True)
            # However long it took, there are enough of them close to the acknowledgement.
            close = time.monotonic_ns() - CLOSE_NS
            count = max(self._after, self._report.needed + MARGIN - sum(at > close for at in sent))
            asked += self._callers.burst(self._cast.tenant, prompts, round(count * self._more))
            seen = await made if isinstance(made, asyncio.Task) else made
            after, flipped_ns = await self._until_proven(step, row.pointer.generation + 1)
            step.update("waiting for the last answers")
            answers = await asyncio.gather(*asked)
            windows = await self._traces.windows(after, left, answers)
        move = _move(number, kind, left, to, after, seen.commit_ms, seen.flipped_ns or flipped_ns, windows, answers, of)
        self._report.moves.append(move)
        return move

    async def _steady(self, asked: list[asyncio.Task[Answer]], sent: list[int], prompts: Sequence[Prompt]) -> None:
        """Requests at an even pace until it is cancelled, or until there are as many as an engine should get.

        `asked` gets the requests, `sent` the CLOCK_MONOTONIC of each turn, which is one request to each router.
        """
        at_most = round(STEADY * self._more)
        pace_s = self._spacing_s / self._more
        async for turn in self._callers.stream(self._cast.tenant, prompts, pace_s, at_most=at_most):
            asked += turn
            sent.append(time.monotonic_ns())

    async def _until_proven(self, step: Progress, generation: int) -> tuple[TenantRow, int | None]:
        """The row once the move is proven or could not be, and when it was first seen to have flipped everywhere."""
        flipped_ns = None
        deadline = time.monotonic() + self._proven_within_s
        done = {AckState.PROVEN, AckState.LISTED, AckState.FAILED}
        while True:
            row = await self.row()
            states = [replica.state for replica in row.replicas]
            step.update(f"flipped {row.flipped}/{row.placed}, proven {row.proven}/{row.placed}")
            moved = row.pointer.generation == generation
            if moved and flipped_ns is None and 0 < row.placed == row.flipped:
                flipped_ns = time.monotonic_ns()
            over = moved and states and all(state in done for state in states)
            if over or time.monotonic() > deadline:
                return row, flipped_ns
            await asyncio.sleep(0.1)


def _move(
    number: int,
    kind: str,
    left: str,
    to: str,
    row: TenantRow,
    commit_ms: float,
    flipped_ns: int | None,
    windows: tuple[Window, ...],
    answers: Sequence[Answer],
    of: int | None,
) -> Move:
    """The report's record of a move, from the pointer's row after it and from its answers."""
    flips = [r.flipped_ms for r in row.replicas if r.flipped_ms is not None]
    proofs = [r.proven_ms for r in row.replicas if r.proven_ms is not None]
    return Move(
        n=number,
        kind=kind,
        left=left,
        to=to,
        generation=row.pointer.generation,
        commit_ms=commit_ms,
        flipped_ms=max(flips) if len(flips) == row.placed and flips else None,
        proven_ms=max(proofs) if len(proofs) == len(row.replicas) and proofs else None,
        levels={r.replica: r.state.value if r.state else "none" for r in row.replicas},
        windows=windows,
        seen_late=sum(1 for answer in answers if flipped_ns and answer.sent_ns > flipped_ns and answer.by == left),
        of=of,
    )


def _target(row: TenantRow) -> str:
    preview = row.preview
    if preview.action is not PreviewAction.ROLLBACK or preview.target is None:
        raise NotReady(f"R has nowhere to go: {preview.refused or preview.action.value}")
    return preview.target.id


async def clear_the_way(api: HubApi, tenant: str, release: str) -> TenantRow:
    """Ends what would refuse a promote: a candidate, a hold and a quarantine of the release. Returns the row then."""
    row = await api.row(tenant, ROUTE)
    if row.pointer.candidate is not None:  # an earlier run was interrupted
        abort = CandidateAbortRequest(
            expected_generation=row.pointer.generation, idempotency_key=new_key(), reason="left by an earlier run"
        )
        await api.send(tenant, ROUTE, abort)
        row = await api.row(tenant, ROUTE)
    if row.pointer.held:
        hold = HoldRequest(
            held=False,
            expected_generation=row.pointer.generation,
            idempotency_key=new_key(),
            reason="looked at; going forward again",
        )
        await api.send(tenant, ROUTE, hold)
    if any(entry.release == release for entry in row.pointer.quarantined):
        lift = LiftRequest(release=release, idempotency_key=new_key(), reason="rolled back from for the demo only")
        await api.send(tenant, ROUTE, lift)
    return await api.row(tenant, ROUTE)


def promotion(row: TenantRow, release: str, *, override: str = "") -> PromoteRequest:
    """A promote at the row's generation; past the gate where there is an override, its reason."""
    return PromoteRequest(
        release=release,
        expected_generation=row.pointer.generation,
        idempotency_key=new_key(),
        override=bool(override),
        reason=override,
    )
