"""Finds what has a date: ends of certificates and retention, days that people entered, deprecated releases."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.facts import Facts
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.quality.notices import Dated, Subject, near
from loradeck.schemas.notice import NoticeKind
from loradeck.strangers.certificates import ServerCertificate

if TYPE_CHECKING:
    from loradeck.hub.access.membership import Membership

LOOK_S = 60.0
"""How long a look is good for."""


@dataclass(eq=False)
class DatedThings:
    """Looks at them once a minute at most.

    `membership`: knows the certificates of nodes and of the hub. `listener`: what the hub shows callers with tokens.
    """

    _state: FoldedLog
    _catalogue: Catalogue
    _facts: Facts
    _fleet: Fleet
    _clock: Clock
    membership: "Membership | None" = field(default=None, init=False)
    listener: ServerCertificate | None = field(default=None, init=False)
    _near: list[Dated] = field(default_factory=list, init=False)
    _looked: float | None = field(default=None, init=False)

    def near(self) -> list[Dated]:
        """Says what comes within two weeks, or has come."""
        now = self._clock.monotonic()
        if self._looked is None or now - self._looked >= LOOK_S:
            self._looked = now
            every = (*self._certificates(), *self._rows(), *self._expected(), *self._deprecated())
            self._near = near(every, self._clock.now_ms())
        return self._near

    def knows(self, subject: Subject) -> bool:
        """Tells whether it is known that nothing comes of a subject: not of a node not heard since the start."""
        known = self.membership.until_ms if self.membership is not None else {}
        return subject.node not in self._fleet.nodes or subject.node in known

    def _certificates(self) -> Iterator[Dated]:
        hub = Subject(NoticeKind.CERTIFICATE_ENDS)
        if self.listener is not None:
            from loradeck.hub.access.authority import ends_ms  # with what it imports 10 MB of memory

            yield Dated(hub, ends_ms(self.listener.cert), "the one that it shows consoles")
        if self.membership is not None:
            authority = self.membership.authority
            yield Dated(hub, authority.served().validity.until_ms, "the hub's own")
            yield Dated(hub, authority.until_ms, "that of its authority; loradeck hub rotate-authority")
            for node, until_ms in self.membership.until_ms.items():
                if node in self._fleet.nodes:
                    yield Dated(Subject(NoticeKind.CERTIFICATE_ENDS, node=node), until_ms)

    def _rows(self) -> Iterator[Dated]:
        """Datasets whose rows were erased are done with."""
        for digest, kept in self._facts.ledger.items():
            days, manifest = kept.entry.retention_days, self._catalogue.datasets.get(digest)
            if days is not None and manifest is not None and digest not in self._facts.erased:
                subject = Subject(NoticeKind.RETENTION_ENDS, tenant=manifest.tenant, dataset=manifest.name)
                yield Dated(subject, kept.at_ms + days * DAY_MS)

    def _expected(self) -> Iterator[Dated]:
        """Finds the days that people entered and that are yet to come; one that has come is the freshness meter's."""
        for tenant in self._state.tenants.values():
            for change in tenant.data.expected_changes:
                if change.at_ms > self._clock.now_ms():
                    yield Dated(Subject(NoticeKind.EXPECTED, tenant=tenant.name), change.at_ms, change.what)

    def _deprecated(self) -> Iterator[Dated]:
        if not self._facts.deprecated:
            return
        for key, pointer in self._state.pointers.items():
            release = self._catalogue.release(pointer.release, key[0]) if pointer.release is not None else None
            old = self._facts.deprecation(release) if release is not None else None
            if old is not None:
                yield Dated(Subject(NoticeKind.DEPRECATED, *key), old.from_ms, old.reason)
