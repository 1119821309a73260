"""Sends the moves that the gate let through, each once and under its own key, and resolves their outcomes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from loradeck.client.errors import ApiError, ClientError, OutcomeUnknown
from loradeck.client.terminal_text import clean
from loradeck.schemas.campaign import Campaign, CampaignChange
from loradeck.schemas.feed import FeedEvents, FeedJobs, FeedNodes
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import IncidentOpen
from loradeck.schemas.jobs import Job
from loradeck.schemas.moves import MoveResult, RewindRequest, UndoRequest
from loradeck.schemas.state import NodeRow
from loradeck.tui.hub.connection import HubConnection
from loradeck.tui.key_checks.orders import after_signing, took
from loradeck.tui.keys.action import Action
from loradeck.tui.lines.outcome import error_line, tell_of, tell_of_all
from loradeck.tui.model.sent_moves import LOOKED_UP, Move, Order, OwnMove, Phase, Signing, Tell, committed_event
from loradeck.tui.model.state import ORDERED, ConsoleState

T = TypeVar("T")

LOOK_UP_S = 2.0
"""Pause between two look-ups of a move whose outcome is unknown."""

AT_ONCE = 8
"""Marked rows that are sent at the same time."""


@dataclass(eq=False)
class MoveSender:
    """Moves on their way. `changed` is called whenever something new is known of one."""

    _hub: HubConnection
    _state: ConsoleState
    _changed: Callable[[], None]
    _reported: list[OwnMove] = field(default_factory=list, init=False)

    def begin(self, moves: Sequence[Move]) -> list[OwnMove]:
        """Record moves before the first byte is sent, so that no second key can send them again."""
        owns = self._state.sent(*moves)
        self._reported = owns
        self.refresh_tell()
        return owns

    @property
    def reported(self) -> Sequence[OwnMove]:
        """The moves whose outcome the TELL line reports."""
        return self._reported

    def adopt(self, moves: Iterable[OwnMove]) -> None:
        """Adopt the moves that the TELL line of a console reported which was cut off."""
        self._reported = owns = list(moves)
        if len(owns) > 1:
            for own in owns:
                own.together = tuple(owns)
        self._state.own += owns
        self.find_committed()
        self.refresh_tell()

    async def look_up(self) -> None:
        """Resolve the outcomes of the adopted moves that have no answer."""
        await asyncio.gather(*(self._look_up(own) for own in self._reported))

    def find_committed(self) -> None:
        """Resolve moves without an answer whose events the feed has brought: they are committed."""
        me = self._state.me
        if me is None:
            return
        for own in [own for own in self._state.own if own.phase in LOOKED_UP]:
            event = committed_event(own.move, self._state.events.values(), me.actor)
            if event is not None:
                self._answered(own, MoveResult(events=(event,), rev=event.rev, epoch=event.epoch))

    def refresh_tell(self) -> None:
        """Bring the TELL line up to date with the last moves."""
        if len(self._reported) == 1:
            self._state.tell = tell_of(self._state, self._reported[0])
        elif self._reported:
            self._state.tell = tell_of_all(self._state, self._reported)

    def dismiss(self) -> bool:
        """Close the TELL line, unless its move is unfinished. Returns whether there was one to close."""
        last_order = self._state.order_tell
        if self._state.screen in ORDERED and last_order is not None and last_order.closes:
            self._state.order_tell = None
            return True
        if self._state.tell is None or not all(self._state.is_finished(own) for own in self._reported):
            return False
        self._state.tell, self._reported = None, []
        return True

    @property
    def watched(self) -> set[PointerKey]:
        """Rows whose changes are drawn at once: those of unfinished moves, and of the last one."""
        waiting = [own for own in self._state.own[-20:] if not self._state.is_finished(own)]
        waiting += self._reported
        return {key for own in waiting for key in (own.move.row, *own.moved)}

    async def deliver(self, owns: Sequence[OwnMove]) -> None:
        """Send, and stay until the outcome of each is known."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(own: OwnMove) -> None:
            async with slots:
                await self._deliver(own)

        await asyncio.gather(*(one(own) for own in owns))

    def _tell_order(self, text: str, style: str) -> None:
        self._state.order_tell = Tell(text, style, self._state.hub_now_ms, closes=style != "warn")
        self._changed()

    async def order(self, order: Order) -> None:
        """Send an order to a node or a job and report its outcome. Sending it twice does no harm."""

        def done(answer: NodeRow | Job | Campaign | MoveResult) -> str:
            if isinstance(answer, MoveResult):
                return f"{order.says}: committed, rev {answer.rev}; the tenants screen has the proof of each"
            if isinstance(answer, Campaign):
                self._state.registry.campaigns[answer.campaign] = answer
                return f"{order.says}: it is {answer.state.value}"
            self._state.apply(FeedNodes(rows=(answer,)) if isinstance(answer, NodeRow) else FeedJobs(rows=(answer,)))
            return took(order, answer)

        await self._report(order.says, self._order(order), done, unknown="STATE says what holds")

    async def sign(self, signing: Signing) -> None:
        """Send a signature and report its outcome. Sending it twice makes one signature."""
        sent = self._hub.api.sign_review(signing.tenant, signing.route, signing.review)
        unknown = f"{self._state.keys.shown(Action.OPEN)} shows who has signed"
        await self._report(
            signing.says, sent, lambda result: f"{signing.says}; {after_signing(result)}", unknown=unknown
        )

    async def _report(self, says: str, sent: Awaitable[T], done: Callable[[T], str], *, unknown: str) -> None:
        """Report the outcome of a call. `unknown`: where a person looks when the answer was lost."""
        self._tell_order(f"{says}: sending", "warn")
        try:
            answer = await sent
        except OutcomeUnknown as error:
            self._tell_order(f"OUTCOME UNKNOWN {says}: no answer from {clean(error.detail)}; {unknown}", "bad")
        except ApiError as error:
            self._tell_order(f"REFUSED {says}: {error_line(error)}", "bad")
        except ClientError as error:
            self._tell_order(f"NOT SENT {says}: {error_line(error)}", "bad")
        else:
            self._tell_order(done(answer), "good")

    async def _deliver(self, own: OwnMove) -> None:
        try:
            result = await self._send(own.move)
        except ApiError as error:
            self._resolve(own, Phase.REFUSED, error_line(error))
        except OutcomeUnknown as error:
            self._resolve(own, Phase.UNKNOWN, clean(error.detail))
            await self._look_up(own)
        except ClientError as error:
            self._resolve(own, Phase.NOT_SENT, error_line(error))
        else:
            self._answered(own, result)
            await self._look_up(own)

    async def _send(self, move: Move) -> MoveResult:
        """Raises: ApiError (refused), HubUnreachable (never sent), OutcomeUnknown (sent, answer lost)."""
        api = self._hub.api
        match move.request:
            case UndoRequest(event=None) as request:
                return await api.undo_together(request)
            case RewindRequest() as request:
                return await api.rewind(request)
            case IncidentOpen() as request:
                return await api.open_incident(request)
            case request:
                return await api.send(move.tenant, move.route, request)

    async def _order(self, order: Order) -> NodeRow | Job | Campaign | MoveResult:
        """Raises the errors of `_send`; an order may be sent twice."""
        api = self._hub.api
        match order.action:
            case Action.PAUSE | Action.GO_ON:
                change = CampaignChange(idempotency_key=self._state.make_key(), reason="from the console")
                return await api.change_campaign(
                    order.subject, "pause" if order.action is Action.PAUSE else "resume", change
                )
            case Action.REWIND:
                assert order.rewind is not None
                return await api.rewind_campaign(order.subject, order.rewind, wait="committed")
            case Action.DRAIN:
                return await api.order_node(order.subject, "drain")
            case Action.CORDON:
                return await api.order_node(order.subject, "cordon")
            case Action.UNCORDON:
                return await api.order_node(order.subject, "uncordon")
            case Action.CANCEL:
                return await api.order_job(order.subject, "cancel")
            case _:
                return await api.order_job(order.subject, "resume")

    async def _look_up(self, own: OwnMove) -> None:
        """Ask by a move's key, now and until the hub knows its outcome. Two answers 'never seen' make it unmoved."""
        unseen = 0
        while own.phase in LOOKED_UP:
            try:
                result = await self._hub.api.move(own.move.key)
                unseen = unseen + 1 if result is None else 0
            except ClientError:
                result, unseen = None, 0
            if own.phase not in LOOKED_UP:  # the feed was faster
                return
            if result is not None and (result.pending is None or own.phase is Phase.UNKNOWN):
                self._answered(own, result)
            elif unseen == 2:
                self._not_moved(own)
            else:
                await asyncio.sleep(LOOK_UP_S)

    def _not_moved(self, own: OwnMove) -> None:
        """Resolve a move of whose key the hub knows nothing: it never arrived, or its prepare has failed."""
        if own.phase is Phase.UNKNOWN:
            self._resolve(own, Phase.NOT_SENT, "the hub has never seen it; press the key again if you still want it")
            return
        job = self._state.jobs.get(own.result.pending or "") if own.result is not None else None
        self._resolve(own, Phase.REFUSED, clean(job.message) if job and job.message else "its prepare has failed")

    def _answered(self, own: OwnMove, result: MoveResult) -> None:
        own.result = result
        phase = Phase.COMMITTED
        if result.cancelled is not None:
            phase = Phase.CANCELLED
        elif result.already is not None:
            phase = Phase.ALREADY
        elif result.pending is not None:
            phase = Phase.PENDING
        if result.events:
            self._state.apply(FeedEvents(events=result.events))
        self._resolve(own, phase, "")

    def _resolve(self, own: OwnMove, phase: Phase, trouble: str) -> None:
        own.phase = phase
        own.trouble = trouble
        own.answered_at = self._state.clock()
        self.refresh_tell()
        self._changed()
