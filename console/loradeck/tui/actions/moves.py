"""From a key that moves or stops something to the question and the request: puts the gate's verdicts into effect."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from loradeck.client.terminal_text import clean
from loradeck.client.times import MomentError, moment
from loradeck.schemas.campaign import CampaignRewind
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Event
from loradeck.schemas.moves import RewindRequest
from loradeck.tui.actions.window import Window
from loradeck.tui.hub.move_sender import MoveSender
from loradeck.tui.hub.queries import Queries
from loradeck.tui.key_checks.decide import annotate, decide, offer
from loradeck.tui.key_checks.orders import rewind_campaign
from loradeck.tui.key_checks.question import Question
from loradeck.tui.key_checks.seen_frames import SeenFrames
from loradeck.tui.key_checks.undo import rewind
from loradeck.tui.key_checks.verdict import Act, Ask, Refuse, Verdict, barrier
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.lines.rollback_panel import wants_panel
from loradeck.tui.model.sent_moves import Move
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import plural
from loradeck.tui.widgets.prompt import Asking


@dataclass(eq=False)
class Moves:
    """The open question, and the only way from an action to the sender. Nothing is sent but through here.

    `seen`: which frames are known to be on the terminal.
    """

    _window: Window
    _state: ConsoleState
    _seen: SeenFrames
    _sender: MoveSender
    _queries: Queries
    _annotating: Event | None = field(default=None, init=False)  # what is selected while one types is another matter
    _over: tuple[PointerKey, ...] = field(default=(), init=False)
    question: Question | None = field(default=None, init=False)
    question_top: int = field(default=0, init=False)
    """First entry of the question's list that is in view."""

    # ---- verdicts ----------------------------------------------------------------------------------------------

    def verdict(self, action: Action) -> Verdict:
        """Decides what would become of an action on the selection now, for the screen alone."""
        return decide(action, self._state, self._seen.look())

    def press(self, action: Action) -> None:
        """An action that needs nothing but the selection: as the checks of the key decide."""
        self.follow(action, decide(action, self._state, self._seen.look()))

    def follow(self, action: Action, verdict: Verdict) -> None:
        """Carry out a verdict: send the moves, open the question, or show why not."""
        match verdict:
            case Refuse():
                self._window.notice(verdict.why, "warn")
            case Ask():
                self.question = Question(action, verdict)
                self.question_top = 0
                if verdict.wants_reason and self._window.front is not None:
                    self._window.front.prompt.open(Asking.REASON)
            case Act(moves=()):
                self._window.exit()
            case Act():
                self._send(verdict.moves)
        self._window.draw_front()

    def bars(self, action: Action) -> bool:
        """Tells whether an action is barred on every row; the notice says why."""
        barred = barrier(action, self._state)
        if barred is not None:
            self._window.notice(barred.why, "warn")
        return barred is not None

    def _send(self, moves: Sequence[Move]) -> None:
        owns = self._sender.begin(moves)
        if len(owns) > 1:
            self._state.marks.clear()
        self._window.run_worker(self._sender.deliver(owns), group="moves")

    # ---- the open question -------------------------------------------------------------------------------------

    def confirm(self) -> None:
        """Yes to the open question: send what it asked for."""
        question = self.question
        if question is None:
            self._window.notice(f"nothing waits for {self._key(Action.CONFIRM)}", "dim")
        elif not self._is_seen(question):
            key = self._key(Action.CONFIRM)
            self._window.notice(f"{key} not taken: your terminal has not shown the question yet", "warn")
        elif question.ask.wants_reason:
            self._window.notice("type the reason, then enter", "warn")
        else:
            self.question = None
            if question.action is Action.QUIT:
                self._window.exit()
            elif question.ask.order is not None:
                self._window.run_worker(self._sender.order(question.ask.order), group="moves")
            elif question.ask.signing is not None:
                self._window.run_worker(self._sender.sign(question.ask.signing), group="moves")
            else:
                self._send(question.ask.moves)

    def give_reason(self, reason: str) -> bool:
        """The typed reason of an override: sends the question it belongs to. False: typing goes on."""
        question = self.question
        if question is None:
            return False
        if not reason.strip():
            self._window.notice("a reason is needed; esc leaves", "warn")
            return False
        if not self._is_seen(question):
            self._window.notice("not sent: your terminal has not shown the question yet", "warn")
            return False
        self.question = None
        self._send([move.because(reason.strip()) for move in question.ask.moves])
        return True

    def dismiss(self) -> bool:
        """Close the innermost of question, rollback panel and last result; False where none is open."""
        if self.question is not None:
            self.question = None
            return True
        return self._closes_panel() or self._sender.dismiss()

    def _closes_panel(self) -> bool:
        state, row = self._state, self._state.row
        if state.screen is not Screen.TENANTS or row is None or not wants_panel(state, row):
            return False
        last = row.pointer.last_move
        if last is None or last in state.dismissed:
            return False
        state.dismissed.add(last)
        return True

    def drop_outdated(self) -> None:
        """A question about something that has changed is withdrawn."""
        why = self.question.outdated(self._state) if self.question is not None else None
        if why is not None:
            self.question = None
            if self._window.front is not None and self._window.front.prompt.asking is Asking.REASON:
                self._window.front.prompt.close()
            self._window.notice(f"question dropped: {why}", "warn")

    def _is_seen(self, question: Question) -> bool:
        frame = self._seen.look()
        return frame.question == question.number and frame.seen_at is not None

    def _key(self, action: Action) -> str:
        return self._state.keys.shown(action)

    # ---- what the hub is asked before a question ---------------------------------------------------------------

    def promote(self, label: str | None, *, override: bool) -> None:
        """Offer a release for the selected row: the newest that is not live, or the one that was named."""
        row = self._state.row
        if self.bars(Action.PROMOTE):
            return
        if row is None:
            self._window.notice(f"{self._key(Action.PROMOTE)} off: no row is selected", "warn")
        else:
            self._window.notice(f"looking up the releases of {row.tenant} ...", "dim")
            self._window.run_worker(self._offer(row.key, label, override=override), group="offer", exclusive=True)

    async def _offer(self, key: PointerKey, label: str | None, *, override: bool) -> None:
        def wanted() -> bool:
            return key in self._state.tenants and self._state.tenant_list.selected == key and self._may_ask()

        found = await self._queries.answer(Action.PROMOTE, lambda _: self._queries.candidate(key, label), wanted)
        if found is not None:
            row = self._state.tenants[key]
            self.follow(Action.PROMOTE, offer(self._state, row, *found, override=override))

    def _may_ask(self, which: Screen = Screen.TENANTS) -> bool:
        """Tells whether a question that took a while may still be put: nobody types, asks or looks at anything else."""
        front = self._window.front
        is_free = front is not None and front.WHICH is which and front.prompt.asking is None
        return is_free and self.question is None

    def ask_moment(self) -> None:
        """Open the line for the time or rev that a rewind goes back to."""
        if not self.bars(Action.REWIND) and self._window.front is not None:
            self._window.notice("14:05 (local), 14:05Z, 20m ago, or a rev", "dim")
            self._window.front.prompt.open(Asking.MOMENT)

    def rewind_to(self, text: str) -> bool:
        """Ask the hub what going back to a time or a rev would do. False: it is neither, and typing goes on."""
        to_rev = int(text) if text.strip().isdecimal() else None
        time_ms = None
        if to_rev is None:
            now_ms = self._state.hub_now_ms or int(time.time() * 1000)
            try:
                time_ms = moment(text, now_ms=now_ms, zoneless=True)
            except MomentError as error:
                self._window.notice(clean(f"{error}; {error.fix}"), "bad")
                return False
        tenants = tuple(dict.fromkeys(tenant for tenant, _ in self._state.marks))
        request = RewindRequest(
            to_rev=to_rev, time_ms=time_ms, tenants=tenants, idempotency_key=self._state.make_key(), reason="rewind"
        )
        self._window.notice("asking the hub what would move ...", "dim")
        self._window.run_worker(self._plan_rewind(request), group="offer", exclusive=True)
        return True

    async def _plan_rewind(self, request: RewindRequest) -> None:
        plan = await self._queries.answer(Action.REWIND, lambda api: api.plan_rewind(request), self._may_ask)
        if plan is not None:
            self.follow(Action.REWIND, rewind(self._state, plan, request))

    def rewind_campaign(self) -> None:
        """Ask the hub what a rewind of the selected campaign would put back."""
        name = self._state.campaign_list.selected
        if self.bars(Action.REWIND):
            return
        if name is None:
            self._window.notice(f"{self._key(Action.REWIND)} off: no campaign is selected", "warn")
            return
        request = CampaignRewind(idempotency_key=self._state.make_key(), reason="from the console")
        self._window.notice("asking the hub what would move ...", "dim")
        self._window.run_worker(self._plan_campaign(name, request), group="offer", exclusive=True)

    async def _plan_campaign(self, name: str, request: CampaignRewind) -> None:
        def wanted() -> bool:
            return self._state.campaign_list.selected == name and self._may_ask(Screen.CAMPAIGNS)

        plan = await self._queries.answer(Action.REWIND, lambda api: api.plan_campaign_rewind(name, request), wanted)
        if plan is not None:
            self.follow(Action.REWIND, rewind_campaign(self._state, name, plan, request))

    # ---- an incident -------------------------------------------------------------------------------------------

    def ask_incident(self) -> None:
        """Open the line for an incident and a reason: over the row and marked rows, or about the selected event."""
        if self.bars(Action.ANNOTATE):
            return
        state, row = self._state, self._state.row
        self._over = ()
        if state.screen is Screen.EVENTS:
            about = state.listed_events.get(state.event_list.selected or 0)
        else:
            about = state.last_move(row) if row is not None else None
            self._over = tuple(dict.fromkeys((row.key, *state.marks))) if row is not None else ()
        if about is None:
            self._window.notice(f"{self._key(Action.ANNOTATE)} off: no move of a pointer is selected", "warn")
        elif self._window.front is not None:
            self._annotating = about
            over = f", over {plural(len(self._over), 'row')}" if self._over else ""
            self._window.notice(f"INC-2210 what happened{over}; - for a note alone", "dim")
            self._window.front.prompt.open(Asking.INCIDENT)

    def annotate(self, text: str) -> None:
        """Send the incident that was typed."""
        self.follow(Action.ANNOTATE, annotate(self._state, self._annotating, text, self._over))
