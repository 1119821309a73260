"""The console on a stage: the real app on the seeded fleet, without a terminal, its clock in our hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tests.fakes import console_fleet as seed
from textual import events
from textual.keys import _character_to_key

from loradeck.client.api import HubApi, PointerRequest
from loradeck.client.errors import HubUnreachable, OutcomeUnknown
from loradeck.client.feed import FeedItem, FeedLink, LinkChange
from loradeck.schemas.attestation import Attestation, AttestationKind, GateResult
from loradeck.schemas.campaign import Campaign, CampaignChange, CampaignRewind
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.counts import RouteHistory
from loradeck.schemas.executor import ExecutorEvent
from loradeck.schemas.feed import FeedEvents, FeedMessage, FeedNodes, FeedStatus, FeedTenants
from loradeck.schemas.freshness import LoopRow
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import IncidentOpen, RelatedReleases
from loradeck.schemas.jobs import Job, JobLogLine
from loradeck.schemas.log import Event
from loradeck.schemas.manifest import AdapterVersion
from loradeck.schemas.moves import (
    AnnotateRequest,
    FallbackRequest,
    HoldRequest,
    MoveResult,
    PromoteRequest,
    RewindPlan,
    RewindRequest,
    RollbackRequest,
    UndoRequest,
)
from loradeck.schemas.responses import DatasetEntry, ReleaseDetail, SuiteEntry
from loradeck.schemas.review import Review, ReviewSheet
from loradeck.schemas.state import HubState, NodeRow, ReleaseView, TenantRow
from loradeck.schemas.trace import Traced
from loradeck.tui.app import Deck
from loradeck.tui.key_checks.verdict import Verdict
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.personal_keys import DEFAULT, Keys
from loradeck.tui.model.hardware_history import SLOT_S
from loradeck.tui.model.sent_moves import Move, Order
from loradeck.tui.model.session import Session
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.widgets.page import Page

CLOCKED = ("loradeck.tui.app.REPAINT_S", "loradeck.tui.screens.pages.POLL_S", "loradeck.tui.screens.lists.PAGE_S")
"""Periods of the console's timers. On a stage none of them fires: `half_second` does what they would do."""


class Clock:
    """A monotonic clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class NewKeys:
    """Idempotency keys that are the same each time."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> str:
        self.made += 1
        return seed.digest(f"key {self.made}")[:32]


KINDS = {
    RollbackRequest: Action.ROLLBACK,
    UndoRequest: Action.UNDO,
    FallbackRequest: Action.FALLBACK,
    HoldRequest: Action.HOLD,
    PromoteRequest: Action.PROMOTE,
    AnnotateRequest: Action.ANNOTATE,
}


class SeededHub(HubApi):
    """A hub that says what it is told to say and answers from the seed: the feed and the calls in one."""

    def __init__(self, state: HubState) -> None:
        self.seed = state
        self.says: asyncio.Queue[FeedItem] = asyncio.Queue()
        self.sent: list[Move] = []
        self.ordered: list[Order] = []
        self.campaigns_since: list[int | None] = []
        self.obeys: Callable[[Order], Any] | None = None
        self.put_back: list[tuple[str, CampaignRewind]] = []
        self.answer: Callable[[Move], MoveResult] | None = None
        self.planned: list[RewindRequest] = []
        self.plan: RewindPlan | None = None
        self.signed: list[Review] = []
        self.judges: Callable[[Review], GateResult | None] | None = None
        self.away = False
        self.history: list[Event] = []
        self.minutes: Callable[[str, str], RouteHistory] | None = None
        self.shown: list[frozenset[PointerKey]] = []

    @property
    def api(self) -> HubApi:
        return self

    async def follow(self) -> AsyncGenerator[FeedItem]:
        yield LinkChange(state=FeedLink.UP, at=0.0)
        yield self.seed
        while True:
            yield await self.says.get()

    async def show(self, rows: frozenset[PointerKey], nodes: frozenset[str]) -> None:
        self.shown.append(rows)

    async def aclose(self) -> None:
        return None

    # ---- moves and orders ----------------------------------------------------------------------------------

    async def send(self, tenant: str, route: str, request: PointerRequest, **_: Any) -> MoveResult:
        return self._moved(KINDS[type(request)], tenant, route, request)

    async def undo_together(self, request: UndoRequest, **_: Any) -> MoveResult:
        return self._moved(Action.UNDO, "", "", request)

    async def open_incident(self, request: IncidentOpen) -> MoveResult:
        return self._moved(Action.ANNOTATE, request.pointers[0].tenant, request.pointers[0].route, request)

    async def rewind(self, request: RewindRequest, **_: Any) -> MoveResult:
        return self._moved(Action.REWIND, "", "", request)

    def _moved(self, kind: Action, tenant: str, route: str, request: Any) -> MoveResult:
        move = Move(kind, tenant, route, request, "")
        self.sent.append(move)
        if self.answer is None:
            raise OutcomeUnknown(move.key, detail="https://hub.eu-1.example:7400")
        return self.answer(move)

    async def move(self, key: str) -> MoveResult | None:
        await asyncio.Event().wait()
        return None

    async def plan_rewind(self, request: RewindRequest) -> RewindPlan:
        self.planned.append(request)
        if self.plan is None:
            raise HubUnreachable("the hub cannot be reached", detail="https://hub.eu-1.example:7400")
        return self.plan

    async def order_node(self, node: str, order: str) -> NodeRow:
        return self._ordered(Action(order), node)

    async def order_job(self, job: str, order: str) -> Job:
        return self._ordered(Action(order), job)

    def _ordered(self, action: Action, subject: str) -> Any:
        order = Order(action, subject, "", "")
        self.ordered.append(order)
        if self.obeys is None:
            raise OutcomeUnknown(None, detail="https://hub.eu-1.example:7400")
        return self.obeys(order)

    async def sign_review(self, tenant: str, route: str, review: Review) -> GateResult | None:
        self.signed.append(review)
        if self.judges is None:
            raise OutcomeUnknown(None, detail="https://hub.eu-1.example:7400")
        return self.judges(review)

    # ---- what is on record ---------------------------------------------------------------------------------

    async def job_events(self, job: str, *, attempt: int = 0, seq: int = -1) -> list[ExecutorEvent]:
        self._reachable()
        return [event for event in seed.job_events(job) if (event.attempt, event.seq) > (attempt, seq)]

    async def job_log(self, job: str, *, attempt: int = 0, number: int = 0) -> list[JobLogLine]:
        self._reachable()
        return [line for line in seed.job_log(job) if (line.attempt, line.number) > (attempt, number)]

    async def events(
        self, *, tenant: str | None = None, route: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[Event]:
        self._reachable()
        return [event for event in self.history if (event.tenant, event.route) == (tenant, route)]

    async def row(self, tenant: str, route: str, *, promote: str | None = None) -> TenantRow:
        return next(row for row in self.seed.tenants if row.key == (tenant, route))

    async def releases(self, tenant: str | None = None) -> list[ReleaseView]:
        assert tenant is not None
        return [
            seed.view(tenant, "v3", "B1"),
            seed.view(tenant, "v7"),
            seed.view(tenant, "v8"),
            seed.view(tenant, "v10"),
        ]

    async def attestations(
        self,
        *,
        kind: AttestationKind | None = None,
        subject: str | None = None,
        tenant: str | None = None,
        route: str | None = None,
    ) -> list[Attestation]:
        """Evaluations of a release, or all gate results; no gate result is about the candidate of a promote."""
        if kind is AttestationKind.EVALUATION and subject is not None:
            return seed.scores(subject)
        if subject is not None:
            return []
        self._reachable()
        return seed.gates()

    async def review_sheet(self, tenant: str, route: str, release: str) -> ReviewSheet:
        self._reachable()
        return seed.review_sheet(tenant, route, release)

    async def adapters(self, tenant: str | None = None) -> list[AdapterVersion]:
        self._reachable()
        return seed.adapters()

    async def capacity(self) -> list[CapacityRow]:
        self._reachable()
        return seed.capacity()

    async def loop(self, tenant: str | None = None) -> list[LoopRow]:
        self._reachable()
        return seed.loop()

    async def campaigns(self, since: int | None = None) -> list[Campaign]:
        self._reachable()
        self.campaigns_since.append(since)
        return [one for one in seed.campaigns() if since is None or one.rev > since]

    async def change_campaign(self, campaign: str, what: str, request: CampaignChange) -> Campaign:
        return self._ordered(Action.PAUSE if what == "pause" else Action.GO_ON, campaign)

    async def plan_campaign_rewind(self, campaign: str, request: CampaignRewind) -> RewindPlan:
        return await self.plan_rewind(RewindRequest(to_rev=1, idempotency_key=request.idempotency_key))

    async def rewind_campaign(self, campaign: str, request: CampaignRewind, **how: Any) -> MoveResult:
        self.put_back.append((campaign, request))
        return MoveResult(events=(), rev=88_420, epoch=3)

    async def datasets(self) -> list[DatasetEntry]:
        self._reachable()
        return seed.data()[0]

    async def suites(self) -> list[SuiteEntry]:
        self._reachable()
        return seed.data()[1]

    async def related(self, tenant: str, route: str) -> RelatedReleases:
        self._reachable()
        return seed.related(tenant, route, self.seed)

    async def route_history(self, tenant: str, route: str, *, minutes: int) -> RouteHistory:
        if self.away or self.minutes is None:
            raise HubUnreachable("it keeps no minutes", detail="https://hub.eu-1.example:7400")
        return self.minutes(tenant, route)

    async def release(self, release: str) -> ReleaseDetail:
        self._reachable()
        return seed.release_detail(release)

    async def traces(self, tenant: str, route: str, *, release: str | None = None, last: int = 200) -> Traced:
        self._reachable()
        return seed.traces(tenant, route, release)

    def _reachable(self) -> None:
        if self.away:
            raise HubUnreachable("the hub cannot be reached", detail="https://hub.eu-1.example:7400")


@dataclass
class Stage:
    """A running console for one picture."""

    deck: Deck
    hub: SeededHub
    clock: Clock
    pause: Callable[[], Awaitable[None]]

    async def press(self, *keys: str) -> None:
        """Keys one after the other, each in a read of its own: characters, or Textual's names of other keys."""
        for key in keys:
            char = {"enter": "\r", "escape": "\x1b", "tab": "\t", "space": " "}.get(key, key if len(key) == 1 else None)
            name = key if len(key) > 1 or key.isalnum() else _character_to_key(key)
            self.deck.post_message(events.Key(name, char))
        await self.pause()

    async def says(self, *items: FeedMessage) -> None:
        for item in items:
            self.hub.says.put_nowait(item)
        await self.pause()

    async def half_second(self) -> None:
        """Let half a second pass, so that what is seen is armed and what is missing is asked for, and draw."""
        self.clock.now += 0.6
        for _ in range(2):
            await self.pause()
            self.deck._tick()
        await self.pause()
        if isinstance(self.deck.screen, Page):
            self.deck.screen.show()  # it follows the real clock, and this one has moved
            await self.pause()

    async def live_nodes(self) -> None:
        """Four minutes of reports of every node; for half a minute of them the link was lost."""
        for slot in range(48):
            self.clock.now += SLOT_S
            if not 30 <= slot < 36:
                await self.says(FeedNodes(rows=tuple(seed.at_work(node, slot) for node in self.hub.seed.nodes)))
        status = self.hub.seed.status
        await self.says(FeedStatus(status=status.model_copy(update={"at_ms": status.at_ms + 240_000})))

    async def roll_back(self, *, acks: int, proofs: int, after_s: float, lost: bool = False) -> None:
        """R on acme, and what the hub says of it `after_s` seconds later."""
        log = seed.Log()
        rows = {row.key: row for row in seed.tenants(log)}
        event, row = seed.rolled_back(rows["acme", "production"], log, acks=acks, proofs=proofs)
        self.hub.answer = lambda move: MoveResult(events=(event,), rev=event.rev, epoch=3, commit_ms=2.1)
        await self.half_second()
        await self.press("R")
        await self.pause()
        self.clock.now += after_s
        if lost:
            row = _cut_off(row)
        status = self.deck.state.status
        assert status is not None
        await self.says(FeedEvents(events=(event,)), FeedTenants(rows=(row,)))
        self.deck.state.heard_at = self.clock.now
        await self.half_second()


def pane(on: Stage) -> str:
    """What the pane of the screen in front says."""
    assert on.deck.front is not None
    return on.deck.front.pane.text


def notice(on: Stage) -> str:
    """What the prompt line of the screen in front says."""
    assert on.deck.front is not None
    return on.deck.front.prompt.notice


def _cut_off(row: TenantRow) -> TenantRow:
    """The last replica is not heard from."""
    *rest, last = row.replicas
    last = last.model_copy(update={"linked": False, "heard_age_s": 14.0, "state": None, "admitted_left": None})
    return row.model_copy(update={"replicas": (*rest, last)})


@asynccontextmanager
async def stage(
    state: HubState | None = None,
    *,
    size: tuple[int, int] = (100, 30),
    read_only: str | None = None,
    session: Session | None = None,
    keys: Keys = DEFAULT,
) -> AsyncIterator[Stage]:
    """A console that has listed the fleet, with its preview on the screen for half a second."""
    hub = SeededHub(state or seed.hub_state())
    clock = Clock()
    new_keys = NewKeys()
    console = ConsoleState(clock=clock, context="eu-1", read_only=read_only, keys=keys, make_key=new_keys)
    deck = Deck(hub, console, session=session)
    verdict = deck.moves.verdict

    def drawn(action: Action) -> Verdict:
        """The verdict without a key that counts: how often a screen is drawn is no part of a test."""
        made = new_keys.made
        found = verdict(action)
        new_keys.made = made
        return found

    deck.moves.verdict = drawn  # type: ignore[method-assign]
    with ExitStack() as held:
        for name in CLOCKED:
            held.enter_context(patch(name, 3600.0))
        async with deck.run_test(size=size) as pilot:

            async def pause() -> None:
                """Until no task can go on, all is drawn, and what was to follow the frame has followed.

                Textual's own looks each 20 ms whether the process rests, and does not wait for what follows a frame.
                """
                ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
                await pilot._wait_for_screen()
                while True:
                    while ready:  # noqa: ASYNC110 - there is no event for an idle loop
                        await asyncio.sleep(0)
                    deck.screen._on_timer_update()
                    if not ready:
                        return

            await pause()
            made = Stage(deck, hub, clock, pause)
            await made.half_second()
            yield made
