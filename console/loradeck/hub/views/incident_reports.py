"""Reports of incidents: what the hub knows of their time, by the minute, and which releases are related to whose."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from loradeck.hub.links.saved_nodes import PendingMinutes
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.incidents import Incidents, Relatives
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread, calling
from loradeck.hub.views.asked_of_nodes import Samples
from loradeck.hub.views.rows import Rows
from loradeck.rules.clocks import DAY_MS, MINUTE_MS
from loradeck.rules.data import related
from loradeck.rules.data.related import Member
from loradeck.schemas.counts import HISTORY_MINUTES, NO_COUNTS, RouteHistory
from loradeck.schemas.ids import PointerKey, short
from loradeck.schemas.incident import (
    Incident,
    IncidentPointer,
    IncidentReport,
    RelatedRelease,
    RelatedReleases,
    Shared,
    Suspect,
    Tie,
)
from loradeck.schemas.log import Event
from loradeck.schemas.notice import Notice
from loradeck.store.sql_log import Store

BEFORE = 30
"""Minutes before its beginning that a report shows."""

MOST_EVENTS = 1000
"""Events of one report, the newest."""

CHARTED = 10
"""Pointers of one report whose minutes are in it."""

NOTICES = 2000
"""Notices, the newest, among which those about an incident's pointers are looked for."""

PAGE = 200


@dataclass(eq=False)
class IncidentReports:
    """Gathers what belongs to an incident when somebody asks for it."""

    _log: Log
    _store: StoreThread
    _catalogue: Catalogue
    _pending: PendingMinutes
    _samples: Samples
    _clock: Clock

    async def history(self, key: PointerKey, *, since: int, until: int | None = None) -> RouteHistory:
        """The requests of a route by the minute, from a minute on (since 1970), and before another one."""
        found = await self._store(lambda s: s.minutes(*key, since=since))
        for minute, counts in self._pending.of(key).items():
            if minute >= since:
                found[minute] = found.get(minute, NO_COUNTS) + counts
        minutes = {minute: counts for minute, counts in sorted(found.items()) if until is None or minute < until}
        end_ms = self._clock.now_ms() if until is None else min(self._clock.now_ms(), until * MINUTE_MS)
        return RouteHistory(tenant=key[0], route=key[1], at_ms=end_ms, since=since, minutes=minutes)

    async def hours(self, key: PointerKey, *, since: int) -> RouteHistory:
        """The requests of a route by the hour, from an hour on (since 1970)."""
        found = await self._store(lambda s: s.hours(*key, since=since))
        minutes = {60 * hour: counts for hour, counts in found.items()}
        now_ms = self._clock.now_ms()
        return RouteHistory(tenant=key[0], route=key[1], at_ms=now_ms, since=60 * since, minutes=minutes, each=60)

    async def of(self, incident: Incident, sees: Callable[[str], bool]) -> IncidentReport:
        """The report of an incident, with those of its pointers whose tenants one sees."""
        now_ms = self._clock.now_ms()
        pointers = tuple(at for at in incident.pointers if sees(at.tenant))
        until_ms = incident.closed_ms if incident.closed_ms is not None else now_ms
        events: dict[int, Event] = {}
        for at in pointers:
            events |= {event.rev: event for event in await self._events(incident, at, until_ms)}
        kept = sorted(events.values(), key=lambda event: event.rev)
        began = min((begins_ms(incident, at) for at in pointers), default=incident.opened_ms)
        since = max(began // MINUTE_MS - BEFORE, now_ms // MINUTE_MS - HISTORY_MINUTES + 1)
        until = until_ms // MINUTE_MS + (1 if incident.closed_ms is None else BEFORE)
        histories = [await self.history(at.key, since=since, until=until) for at in pointers[:CHARTED]]
        named = {one for event in kept for one in event.path if one is not None}
        named |= {at.suspect.release for at in pointers if at.suspect is not None}
        return IncidentReport(
            incident=incident.model_copy(update={"pointers": pointers}),
            at_ms=now_ms,
            events=tuple(kept[-MOST_EVENTS:]),
            more=max(0, len(kept) - MOST_EVENTS),
            histories=tuple(histories),
            notices=await self._notices(pointers, began, until_ms),
            releases={one: self._catalogue.view(one) for one in sorted(named)},
            samples=await self._sampled(pointers[:CHARTED]),
        )

    async def _sampled(self, pointers: tuple[IncidentPointer, ...]) -> int | None:
        """Counts the samples of what an incident is about. Their text is read elsewhere, by whoever may."""
        about = [(at.key, at.suspect.release) for at in pointers if at.suspect is not None]
        found = await asyncio.gather(*(self._samples.count(*one) for one in about))
        counted = [n for n in found if n is not None]
        return sum(counted) if counted else None

    async def _events(self, incident: Incident, at: IncidentPointer, until_ms: int) -> list[Event]:
        """The events about a pointer in the incident's time, and later ones that name the incident; newest first."""
        found: list[Event] = []
        before: int | None = None
        since_ms = begins_ms(incident, at)
        while len(found) <= MOST_EVENTS:
            asked = calling(Store.history, tenant=at.tenant, route=at.route, before_rev=before, limit=PAGE)
            if not (page := await self._store(asked)):
                break
            found += [e for e in page if since_ms <= e.at_ms and (e.at_ms <= until_ms or e.incident == incident.id)]
            before = page[-1].rev
            if page[-1].at_ms < since_ms:
                break
        return found

    async def _notices(self, pointers: tuple[IncidentPointer, ...], since_ms: int, until_ms: int) -> tuple[Notice, ...]:
        keys = {at.key for at in pointers}
        rows = await self._store(lambda s: s.notices(NOTICES))
        told = (row.notice for row in reversed(rows) if since_ms <= row.notice.at_ms <= until_ms)
        return tuple(one for one in told if (one.tenant, one.route) in keys)


def begins_ms(incident: Incident, at: IncidentPointer) -> int:
    """When an incident began on a pointer: as its release came there, a day before it was opened at most."""
    came = at.suspect.at_ms if at.suspect is not None and at.suspect.at_ms is not None else incident.opened_ms
    return max(min(came, incident.opened_ms), incident.opened_ms - DAY_MS)


MOST = 200
"""Related releases that are listed."""

_RANK = {what: rank for rank, what in enumerate(Shared)}


@dataclass(eq=False)
class RelatedIndex:
    """Finds related releases when somebody looks for the cause of bad answers."""

    _log: Log
    _catalogue: Catalogue
    _rows: Rows
    _incidents: Incidents
    _relatives: Relatives

    def of(self, tenant: str, route: str, sees: Callable[[str], bool]) -> RelatedReleases:
        """The releases that are related to a pointer's live one, or to that which an open incident on it is about, the
        closest first: those of tenants that one sees.

        Raises: Refused `unknown_tenant`, `unknown_route`.
        """
        self._log.state.route(tenant, route)
        pointer = self._log.state.pointers.get((tenant, route))
        incident = self._incidents.open_on((tenant, route))
        at = incident.at((tenant, route)) if incident is not None else None
        about = at.suspect if at is not None else None
        one = None
        if pointer is not None:
            one = self._relatives.member(tenant, about) if about is not None else self._relatives.live(pointer)
        if pointer is None or one is None:
            return RelatedReleases(tenant=tenant, route=route, generation=pointer.generation if pointer else 0)
        found = self._found(pointer.key, one, sees)
        listed = []
        for _, key, ties in found[:MOST]:
            row = self._rows.tenant(key)
            if row.live is not None:
                named = tuple(Tie(what=what, name=self._named(what, name)) for what, name in ties)
                listed.append(
                    RelatedRelease(
                        tenant=key[0],
                        route=key[1],
                        live=row.live,
                        ties=named,
                        flags=row.flags,
                        bad_now=row.bad_now,
                        bad_n=row.bad_n,
                    )
                )
        return RelatedReleases(
            tenant=tenant,
            route=route,
            generation=pointer.generation,
            total=len(found),
            incident=incident.id if incident is not None and about is not None else None,
            about=self._catalogue.view(about.release, tenant).label if about is not None else None,
            companions=tuple(listed),
        )

    def keys(self, key: PointerKey, about: Suspect | None, sees: Callable[[str], bool]) -> list[PointerKey]:
        """The pointers whose live release is related to one of a pointer, of tenants that one sees."""
        one = self._relatives.member(key[0], about) if about is not None else None
        return [other for _, other, _ in self._found(key, one, sees)] if one is not None else []

    def _found(
        self, key: PointerKey, one: Member, sees: Callable[[str], bool]
    ) -> list[tuple[int, PointerKey, list[tuple[Shared, str]]]]:
        """(rank, pointer, what it shares) of the others, the closest first."""
        found = []
        for other, pointer in self._log.state.pointers.items():
            member = self._relatives.live(pointer) if other != key and sees(other[0]) else None
            ties = related.shared(one, member) if member is not None else []
            if ties:
                found.append((min(_RANK[what] for what, _ in ties), other, ties))
        return sorted(found)

    def _named(self, what: Shared, name: str) -> str:
        """The shared trait as people name it."""
        if what is Shared.DATASET:
            dataset = self._catalogue.datasets.get(name)
            return f"{dataset.tenant}/{dataset.name}" if dataset else short(name)
        if what is Shared.RELEASE:
            return self._catalogue.view(name).label
        if what is Shared.BASE_MOVE:
            return " > ".join(self._catalogue.base_label(base) for base in name.split())
        return short(name) if what in (Shared.RUN, Shared.SIGNER) else name
