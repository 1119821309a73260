"""Where a route asks for two people: what one has asked for, and what one did alone that nobody has countersigned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import AtRev, Kept, Log, Published
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.access import person
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.rules.quality.break_glass import countersigned_by, was_alone
from loradeck.schemas.audit import AuditDraft
from loradeck.schemas.ids import PointerKey, digest_of
from loradeck.schemas.log import Event
from loradeck.schemas.state import ActedAlone

OPEN_MS = DAY_MS
"""How long a proposal waits."""


@dataclass(eq=False)
class Proposals:
    """The newest proposal of each route. `people_sign_in`: then only they count, and no machine's token."""

    _clock: Clock
    people_sign_in: bool
    _open: dict[PointerKey, tuple[str, str, str, int]] = field(default_factory=dict, init=False)

    def person(self, name: str, token: str | None) -> str:
        """Says who a caller is where two people are asked for, by its name and the id of its token.

        Raises: Refused `person_required`.
        """
        found = person(token, name, people_sign_in=self.people_sign_in)
        if found is None:
            raise Refused(
                "person_required",
                "people are asked for here, and neither a machine's token nor the hub's host is one",
                detail=name,
                fix="sign in: loradeck login",
            )
        return found

    def agreed(self, key: PointerKey, what: Mapping[str, Any], name: str, token: str | None) -> str | None:
        """The name of somebody else who has asked for the same; None: nobody has, and it is proposed now.

        Raises: Refused `person_required`.
        """
        asked, who, now = digest_of(what), self.person(name, token), self._clock.now_ms()
        proposed, by, called, at_ms = self._open.get(key, ("", "", "", 0))
        if proposed == asked and by != who and now - at_ms < OPEN_MS:
            return called
        self._open[key] = (asked, who, name, now)
        return None


BROKEN = "broken_glass"
"""The store's setting that holds what is open, and the rev up to which the log was read for it."""


class _Open(AtRev):
    """What is open at a rev of the log: event id -> the event."""

    events: dict[str, Event] = Field(default_factory=dict)


class BrokenGlass:
    """Follows the log. `note` adds a line to the audit trail."""

    def __init__(self, log: Log, store: StoreThread, changes: Changes, note: Callable[[AuditDraft], None]) -> None:
        """Reads what is open, and the events since that was written; blocking."""
        self._changes, self._note = changes, note
        self._kept = Kept(log, store, BROKEN, _Open)
        self._open = self._kept.state
        for event in self._kept.unread():
            self._take(event)

    def committed(self, published: Published) -> None:
        """Takes note of new events; a follower of the log."""
        for event in published.events:
            if self._take(event):
                self._changes.now([(event.tenant, event.route or "")])
            if was_alone(event):
                where = f"{event.tenant}/{event.route}"
                subject = {"event": event.id, "kind": event.kind.value, "route": where}
                self._note(AuditDraft(actor=event.actor, call="break-glass", subject=subject, detail=event.reason))

    def _take(self, event: Event) -> bool:
        self._open.rev = event.rev
        if was_alone(event):
            self._open.events[event.id] = event
            return True
        return self._open.events.pop(countersigned_by(event) or "", None) is not None

    def on(self, key: PointerKey) -> tuple[ActedAlone, ...]:
        """Lists what somebody did alone on a pointer, oldest first."""
        return tuple(
            ActedAlone(event=e.id, kind=e.kind, actor=e.actor, reason=e.reason, at_ms=e.at_ms)
            for e in self._open.events.values()
            if (e.tenant, e.route) == key
        )

    def find(self, event: str) -> Event | None:
        """An event that waits to be countersigned; None: there is none of this id."""
        return self._open.events.get(event)

    async def save(self) -> None:
        """Writes what is open."""
        await self._kept.save()
