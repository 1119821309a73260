"""The incidents at the hub: those that are open, the newest that are closed, and which releases are related to them."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import Field

from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.log import AtRev, Kept, Log, Published
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.data.related import Member, freezes
from loradeck.rules.errors import Refused
from loradeck.rules.moves.incidents import after, suspect_of
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import Incident, Shared, Suspect
from loradeck.schemas.log import MOVES, Event, PointerState

INCIDENTS = "incidents"
"""The store's setting that holds them."""

CLOSED = 500
"""Closed incidents that are kept in memory, the newest. The log has all of them."""


class _Known(AtRev):
    """Incidents by their ids, in the order of their opening."""

    incidents: dict[str, Incident] = Field(default_factory=dict)


class Incidents:
    """Follows the log."""

    def __init__(self, log: Log, store: StoreThread, changes: Changes) -> None:
        """Reads the incidents, and the events since they were written; blocking."""
        self._log, self._changes = log, changes
        self._kept = Kept(log, store, INCIDENTS, _Known)
        self._known = self._kept.state
        self._open: dict[PointerKey, str] = {}
        self.save = self._kept.save
        for event in self._kept.unread():
            self._take(event)
        self._index()

    def committed(self, published: Published) -> None:
        """Takes note of new events; a follower of the log."""
        for event in published.events:
            if (changed := self._take(event)) is not None:
                self._index()
                self._changes.now([at.key for at in changed.pointers])

    def _take(self, event: Event) -> Incident | None:
        self._known.rev = event.rev
        every = self._known.incidents
        known = every.get(event.incident) if event.incident is not None else None
        now = after(known, event) if event.incident is not None else None
        if now is None or now == known:
            return None
        every[now.id] = now
        closed = [one.id for one in every.values() if one.closed_ms is not None]
        for old in closed[: len(closed) - CLOSED] if len(closed) > CLOSED else ():
            del every[old]
        return now

    def _index(self) -> None:
        every = self._known.incidents.values()
        self._open = {at.key: one.id for one in every if one.closed_ms is None for at in one.pointers}

    def all(self) -> list[Incident]:
        """Every incident, the newest first."""
        return list(reversed(self._known.incidents.values()))

    def get(self, incident_id: str) -> Incident | None:
        """An incident by its id; None: there is none, or it was closed long ago."""
        return self._known.incidents.get(incident_id)

    def seen(self, incident_id: str, sees: Callable[[str], bool]) -> Incident:
        """An incident of a tenant that one sees. Raises: Refused `unknown_incident`."""
        found = self.get(incident_id)
        if found is None or not sees(found.tenant):
            fix = "loradeck incident ls"
            raise Refused("unknown_incident", "there is no such incident", detail=incident_id, fix=fix)
        return found

    def open_on(self, key: PointerKey) -> Incident | None:
        """The newest open incident of a pointer; None: it has none."""
        return self._known.incidents.get(self._open.get(key, ""))

    def on(self, tenant: str) -> Incident | None:
        """The newest open incident with a pointer of a tenant; None: there is none."""
        here = (one for one in self.all() if one.closed_ms is None)
        return next((one for one in here if any(at.tenant == tenant for at in one.pointers)), None)

    def open_at(self, tenant: str) -> int:
        """Says how many open incidents belong to a tenant."""
        return sum(one.closed_ms is None and one.tenant == tenant for one in self._known.incidents.values())

    def new_id(self) -> str:
        """An id that no incident has. It names no tenant: whoever shares a release's origin may be shown it."""
        return f"inc-{secrets.token_hex(4)}"

    async def suspect(self, pointer: PointerState, release: str | None = None) -> Suspect | None:
        """Says what an incident on a pointer is about: a release that is named, else the candidate, what the last move
        has left, or the live release; None: nothing was ever live.
        """
        last = self._log.last_move(pointer)
        current = pointer.candidate.release if pointer.candidate is not None else pointer.release
        left = last.left if last is not None and pointer.candidate is None else None
        about = release or (left if left in {one.release for one in pointer.quarantined} else None) or current
        if about is None:
            return None
        if about == current or last is None:
            return suspect_of(about, last if about == current else None)
        before = await self._log.pointer_before(last)
        brought = await self._log.event(before.last_move) if before is not None and before.last_move else None
        fits = brought is not None and brought.kind in MOVES and about in brought.path
        return suspect_of(about, brought if fits else None)


@dataclass(eq=False)
class Relatives:
    """What releases share with others, as registry, facts and log have it; the promotes that open incidents hold up."""

    _log: Log
    _catalogue: Catalogue
    _facts: Facts
    _incidents: Incidents

    def member(self, tenant: str, brought: Suspect) -> Member | None:
        """The traits of a release of a tenant; None: it is not registered here."""
        catalogue = self._catalogue
        release = catalogue.release(brought.release, tenant)
        if release is None:
            return None
        left = catalogue.releases.get(brought.left) if brought.left is not None else None
        version = catalogue.version_of(release)
        return Member(
            datasets=frozenset(version.manifest.datasets) if version else frozenset(),
            recipe=version.manifest.config_hash if version else None,
            base=release.base,
            left_base=left.base if left else None,
            signers=frozenset(self._facts.signed.get(release.signed_part, ())),
            brought=brought,
        )

    def live(self, pointer: PointerState) -> Member | None:
        """The traits of a pointer's live release; None: nothing is served there, or it is not registered here."""
        if pointer.release is None:
            return None
        return self.member(pointer.tenant, suspect_of(pointer.release, self._log.last_move(pointer)))

    def check_promote(self, key: PointerKey, release: str, by: str, now_ms: int) -> Refused | None:
        """The refusal of a promote of a release that is related to what an open incident is about; None: it is not."""
        pointer, config = self._log.state.pointer(key), self._log.state.config(key)
        one = self.member(key[0], Suspect(release=release, left=pointer.release, by=by, promoted=True, at_ms=now_ms))
        found = freezes(key, config.guard, one, self._about()) if one is not None else None
        if found is None:
            return None
        incident, what = found
        return Refused(
            "related_incident",
            f"{self._catalogue.called(release)} is related to a release that {incident.id} is about",
            detail=f"they share {_WORDS[what]}",
            fix=f"wait until it is closed (loradeck incident show {incident.id}), or override with a reason",
            context={"incident": incident.id, "shares": what.value},
        )

    def _about(self) -> Iterator[tuple[Incident, Member]]:
        for incident in self._incidents.all():
            first = incident.pointers[0]
            if incident.closed_ms is None and first.suspect is not None:
                member = self.member(first.tenant, first.suspect)
                if member is not None:
                    yield incident, member


_WORDS = {
    Shared.RELEASE: "all: it is the same one",
    Shared.DATASET: "a dataset",
    Shared.RUN: "a recipe",
    Shared.BASE_MOVE: "a move between two bases",
    Shared.BATCH: "a batch of promotes",
}
