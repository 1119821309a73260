"""From a key that moves something to the question and the request: puts what the gate says into effect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from loradeck.client.terminal_text import clean
from loradeck.client.times import MomentError, moment
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Event
from loradeck.schemas.moves import RewindRequest
from loradeck.tui.gate.decide import Act, Action, Ask, Refuse, Verdict, barrier, decide, offer, rewind
from loradeck.tui.gate.orders import order_of
from loradeck.tui.gate.question import Question
from loradeck.tui.model.own_moves import Move
from loradeck.tui.model.state import Screen
from loradeck.tui.widgets.prompt import Asking

if TYPE_CHECKING:
    from loradeck.tui.app import Deck


class Moving:
    """Nothing is sent but through here. `annotating`: the event that an incident is being typed for."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck
        self.annotating: Event | None = None

    def gate(self, action: Action) -> None:
        """A key that moves something on the selected row: as the gate decides."""
        verdict = decide(
            action,
            self._deck.state,
            self._deck.sight.look(),
            read_only=self._deck.read_only,
            make_key=self._deck.make_key,
        )
        self.follow(action, verdict)

    def order(self, action: Action) -> None:
        """A key that orders something of the selected node or job: its question, or why there is none."""
        self.follow(action, order_of(action, self._deck.state, read_only=self._deck.read_only))

    def follow(self, action: Action, verdict: Verdict) -> None:
        """Send, ask or say why not."""
        match verdict:
            case Refuse():
                self._deck.notice(verdict.why, "warn")
            case Ask():
                self._deck.question = Question(action, verdict)
                self._deck.question_top = 0
                if verdict.wants_reason and self._deck.front is not None:
                    self._deck.front.prompt.open(Asking.REASON)
            case Act(moves=()):
                self._deck.exit()
            case Act():
                self.send(verdict.moves)
        self._deck.draw_front()

    def is_seen(self, question: Question) -> bool:
        """Whether the terminal has shown a question."""
        frame = self._deck.sight.look()
        return frame.question == question.number and frame.seen_at is not None

    def drop_outdated(self) -> None:
        """A question about something that has changed is withdrawn."""
        why = self._deck.question.outdated(self._deck.state) if self._deck.question is not None else None
        if why is not None:
            self._deck.question = None
            if self._deck.front is not None and self._deck.front.prompt.asking is Asking.REASON:
                self._deck.front.prompt.close()
            self._deck.notice(f"question dropped: {why}", "warn")

    def promote(self, label: str | None, *, override: bool) -> None:
        """Offer a release for the selected row: the newest that is not live, or the one that was named."""
        row = self._deck.state.row
        barred = barrier(Action.PROMOTE, self._deck.state, self._deck.read_only)
        if barred is not None:
            self._deck.notice(barred.why, "warn")
        elif row is None:
            self._deck.notice("p off: no row is selected", "warn")
        else:
            self._deck.notice(f"looking up the releases of {row.tenant} ...", "dim")
            self._deck.run_worker(self._offer(row.key, label, override=override), group="offer", exclusive=True)

    def _may_ask(self) -> bool:
        """Whether a question that took a while may still be put: nobody types, asks or looks at anything else."""
        front = self._deck.front
        return (
            front is not None
            and front.WHICH is Screen.TENANTS
            and front.prompt.asking is None
            and self._deck.question is None
        )

    async def _offer(self, key: PointerKey, label: str | None, *, override: bool) -> None:
        found = await self._deck.asker.candidate(key, label)
        if found is None:
            return
        row = self._deck.state.tenants.get(key)
        if row is None or self._deck.state.tenant_list.selected != key or not self._may_ask():
            self._deck.notice("p dropped: you have moved on", "dim")
            return
        self._deck.notice("")
        candidate, gate = found
        verdict = offer(
            self._deck.state,
            row,
            candidate,
            gate,
            override=override,
            read_only=self._deck.read_only,
            make_key=self._deck.make_key,
        )
        self.follow(Action.PROMOTE, verdict)

    def rewind_to(self, text: str) -> bool:
        """Ask the hub what going back to a time or a rev would do. False: it is neither, and typing goes on."""
        to_rev = int(text) if text.strip().isdecimal() else None
        time_ms = None
        if to_rev is None:
            now_ms = self._deck.state.hub_now_ms or int(time.time() * 1000)
            try:
                time_ms = moment(text, now_ms=now_ms, zoneless=True)
            except MomentError as error:
                self._deck.notice(clean(f"{error}; {error.fix}"), "bad")
                return False
        tenants = tuple(dict.fromkeys(tenant for tenant, _ in self._deck.state.marks))
        request = RewindRequest(
            to_rev=to_rev, time_ms=time_ms, tenants=tenants, idempotency_key=self._deck.make_key(), reason="rewind"
        )
        self._deck.notice("asking the hub what would move ...", "dim")
        self._deck.run_worker(self._plan_rewind(request), group="offer", exclusive=True)
        return True

    async def _plan_rewind(self, request: RewindRequest) -> None:
        plan = await self._deck.asker.plan(request)
        if plan is None:
            return
        if not self._may_ask():
            self._deck.notice("W dropped: you have moved on", "dim")
            return
        self._deck.notice("")
        self.follow(Action.REWIND, rewind(self._deck.state, plan, request, read_only=self._deck.read_only))

    def about(self) -> Event | None:
        """The event that `i` is about: the selected one, or the last move of the selected row."""
        if self._deck.state.screen is Screen.EVENTS:
            return self._deck.state.events.get(self._deck.state.event_list.selected or 0)
        row = self._deck.state.row
        return self._deck.state.last_move(row) if row is not None else None

    def send(self, moves: Sequence[Move]) -> None:
        """Send what was let through or confirmed, beside the keys."""
        owns = self._deck.sender.begin(moves)
        if len(owns) > 1:
            self._deck.state.marks.clear()
        self._deck.run_worker(self._deck.sender.deliver(owns), group="moves")
