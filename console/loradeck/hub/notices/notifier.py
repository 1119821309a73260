"""The notifier: watches pointers, nodes, jobs, gates and moves, and says what people are to be told."""

import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Published
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.notices.outbox import Outbox
from loradeck.hub.progress.usual_shares import UsualShares
from loradeck.hub.views.rows import Rows
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import is_guards
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.quality.notices import CONDITIONS, Conditions, Dated, Subject, coming, conditions, near
from loradeck.rules.quality.stakeholders import ON_THE_CARD
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.ids import PointerKey, digest_of
from loradeck.schemas.jobs import Job, JobState
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.notice import LONGEST, Notice, NoticeKind, NoticeList, Severity, Silence, SilenceRequest
from loradeck.store.interface import StoreError
from loradeck.strangers.certificates import ServerCertificate

LOOK_S = 60.0
"""How long a look is good for."""


@dataclass(eq=False)
class DatedThings:
    """Ends of certificates and retention, days that people entered, deprecated releases; looked at once a minute.

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


if TYPE_CHECKING:
    from loradeck.hub.access.membership import Membership


SILENCES = "silences"
"""The setting that holds the silences."""

MOST_SILENCES = 200

ROWS_A_TICK = 50
"""Rows that are looked at in a second at most: a rewind of a thousand tenants must not keep the next move waiting."""


@dataclass(eq=False, kw_only=True)
class Notifier:
    """What is worth telling, and the silences. It costs nothing where a hub has no file of channels."""

    state: FoldedLog
    store: StoreThread
    fleet: Fleet
    changes: Changes
    rows: Rows
    usual: UsualShares
    clock: Clock
    dated: DatedThings
    facts: Facts
    unread: Callable[[PointerKey, str], Awaitable[Refused | None]]
    """Says which stakeholders of a route have yet to read the card of a release, and of which card."""
    outbox: Outbox
    silences: list[Silence] = field(init=False)
    _conditions: Conditions = field(init=False)
    _seen: int = field(default=0, init=False)
    _owed: dict[PointerKey, None] = field(default_factory=dict, init=False)
    _news: list[Notice] = field(default_factory=list, init=False)
    _cards: dict[tuple[PointerKey, str], None] = field(default_factory=dict, init=False)
    """Releases whose cards may await somebody, by pointer."""
    _asked: set[str] = field(init=False)
    """Ids of the notices that asked somebody to read a card."""

    def __post_init__(self) -> None:
        saved, told = self.store.now(lambda s: (s.meta(SILENCES), s.notices(limit=10_000)))
        self.silences = [Silence.model_validate(one) for one in json.loads(saved or "[]")]
        self._conditions = Conditions.after(row.notice for row in reversed(told))
        self._owed.update(dict.fromkeys(self.state.pointers))
        self._asked = {row.notice.id for row in told if row.notice.kind is NoticeKind.CARD_AWAITS}

    # ---- what happened -------------------------------------------------------------------------------------

    def committed(self, published: Published) -> None:
        """Takes in what guards have done, and holds."""
        for event in published.events:
            if is_guards(event):
                self._news.append(_of_event(event, NoticeKind.GUARD, Severity.PAGE, "guard acted by itself"))
            elif event.kind is EventKind.NODE_CORDON:
                self._news.append(_of_event(event, NoticeKind.GUARD, Severity.PAGE, "guard cordoned it by itself"))
            elif event.kind is EventKind.HOLD:
                self._news.append(_of_event(event, NoticeKind.HOLD, Severity.INFO, f"held by {event.actor}"))

    def attested(self, written: Attestation, _: object) -> None:
        """Takes in the results of gates, and what changes the card of a release that somebody has read."""
        if written.kind is AttestationKind.GATE and written.body.get("passed"):
            self.card_awaits((written.tenant, written.route or ""), written.subject)
        if written.kind in ON_THE_CARD:
            for (key, release), read in self.facts.acknowledged.items():
                live = self.state.pointer(key).release if key[0] == written.tenant else release
                if live != release and any(one.said.against == live for one in read):  # else it was live once, perhaps
                    self.card_awaits(key, release)
        if written.kind is AttestationKind.GATE:
            where, passed = "/".join(filter(None, (written.tenant, written.route))), bool(written.body.get("passed"))
            self._news.append(
                Notice(
                    id=f"gate-{written.seq}",
                    kind=NoticeKind.GATE_PASSED if passed else NoticeKind.GATE_FAILED,
                    severity=Severity.INFO if passed else Severity.TICKET,
                    at_ms=written.at_ms,
                    tenant=written.tenant,
                    route=written.route,
                    title=f"{where}: {written.subject[:12]} {'passed' if passed else 'did not pass'} its gate",
                    command=f"loradeck gate show {where.replace('/', ' ')}",
                )
            )

    def card_awaits(self, key: PointerKey, release: str) -> None:
        """Notes that stakeholders of a route may have to read the card of a release."""
        if self.state.config(key).controls.stakeholders:
            self._cards[key, release] = None

    async def _ask_for_cards(self, now_ms: int) -> None:
        """Asks whoever has not read a card as it is now; the same people once for the same card."""
        for at in list(self._cards):
            del self._cards[at]
            key, release = at
            try:
                unread = await self.unread(key, release)
            except StoreError:
                self._cards[at] = None
                raise
            people = tuple(unread.context["missing"]) if unread is not None else ()
            asked = digest_of({"at": key, "card": unread.context["card"], "people": people}) if unread else ""
            if unread is None or (id_ := f"card-{release[:12]}-{asked[:24]}") in self._asked:
                continue
            self._asked.add(id_)
            self._news.append(
                Notice(
                    id=id_,
                    kind=NoticeKind.CARD_AWAITS,
                    severity=Severity.TICKET,
                    at_ms=now_ms,
                    tenant=key[0],
                    route=key[1],
                    people=people,
                    title=f"{'/'.join(key)}: how {release[:12]} differs from what is live awaits {', '.join(people)}"[
                        :LONGEST
                    ],
                    detail=unread.detail[:LONGEST],
                    command=f"loradeck gate acknowledge {' '.join(key)} {release[:12]}",
                )
            )

    def job_changed(self, job: Job) -> None:
        """Takes in a job that has failed. Where it was a prepare, its pointer's row says FAILED, and that is told."""
        if job.state is JobState.FAILED and job.kind != "prepare":
            self._news.append(
                Notice(
                    id=f"job-{job.id}",
                    kind=NoticeKind.JOB_FAILED,
                    severity=Severity.TICKET,
                    at_ms=self.clock.now_ms(),
                    tenant=job.tenant,
                    title=f"{job.tenant}: the {job.kind} job {job.id} failed"[:LONGEST],
                    detail=job.message[:LONGEST],
                    command=f"loradeck job show {job.id}",
                )
            )

    # ---- what is so ----------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Looks at what has changed, and has it told; called once a second."""
        now = self.clock.now_ms()
        await self._ask_for_cards(now)  # before what is told is taken: the store may not answer
        news, self._news = self._news, []
        news += self._conditions.changed(
            (subject for subject in self._conditions.of_nodes() if subject.node not in self.fleet.nodes), {}, now
        )
        for node in self.fleet.nodes.values():
            news += self._node(node, now)
        seen, self._seen = self._seen, self.changes.seq
        self._owed.update(dict.fromkeys(self._conditions.passing()))
        self._owed.update((key, None) for key, mark in self.changes.touched.items() if mark[1] > seen)
        for key in list(self._owed)[:ROWS_A_TICK]:
            del self._owed[key]
            if key in self.state.pointers:
                held = self._conditions.of(*key)
                if not self.usual.knows_burning(key):  # else it ended, and paged again, at each start of the hub
                    held.discard(Subject(NoticeKind.BURNING, *key))
                news += self._conditions.changed(held, conditions(self.rows.tenant(key)), now)
        before = filter(self.dated.knows, self._conditions.dated())
        news += self._conditions.changed(before, coming(self.dated.near()), now)
        self.tell([*news, *self._conditions.due(now)])
        await self.outbox.tick()

    def _node(self, node: Node, now_ms: int) -> list[Notice]:
        subject = Subject(NoticeKind.NODE_LOST, node=node.name)
        lost = node.lost and not node.drained
        holds = {subject: CONDITIONS[NoticeKind.NODE_LOST].words} if lost else {}
        return self._conditions.changed([subject], holds, now_ms)

    def tell(self, notices: Iterable[Notice]) -> None:
        """Has notices told, but for those that a silence covers."""
        now = self.clock.now_ms()
        self.silences = [silence for silence in self.silences if silence.until_ms > now]
        loud = [one for one in notices if not any(silence.covers(one, now) for silence in self.silences)]
        if loud:
            self.outbox.tell(loud)

    # ---- what people ask for -------------------------------------------------------------------------------

    def test(self, name: str, by: str) -> Notice:
        """Has one channel be told that this is a test. Raises: Refused `unknown_channel`."""
        self.outbox.known(name)
        notice = Notice(
            id=f"test-{secrets.token_hex(8)}",
            kind=NoticeKind.TEST,
            severity=Severity.INFO,
            at_ms=self.clock.now_ms(),
            title=f"this is a test, asked for by {by}"[:LONGEST],
        )
        self.outbox.tell_one(notice, name)
        return notice

    async def listed(self, limit: int) -> NoticeList:
        """The newest notices, the channels and the silences."""
        rows = await self.store(lambda s: s.notices(limit))
        channels, fault = self.outbox.rows(), self.outbox.channels.fault
        return NoticeList(notices=tuple(rows), channels=channels, silences=tuple(self.silences), fault=fault)

    async def silence(self, request: SilenceRequest, by: str) -> Silence:
        """Tells nobody of what matches for some time. What holds now and was told stays told.

        Raises: Refused `too_many_silences`; StoreError.
        """
        if len(self.silences) >= MOST_SILENCES:
            raise Refused(
                "too_many_silences", f"there are {MOST_SILENCES} silences", fix="loradeck notice unsilence ID"
            )
        until_ms = self.clock.now_ms() + 1000 * request.seconds
        asked = request.model_dump(exclude={"seconds"})
        made = Silence(id=secrets.token_hex(4), until_ms=until_ms, by=by, **asked)
        await self._save([*self.silences, made])
        return made

    async def unsilence(self, silence_id: str) -> None:
        """Ends a silence. Raises: Refused `unknown_silence`; StoreError."""
        left = [one for one in self.silences if one.id != silence_id]
        if len(left) == len(self.silences):
            raise Refused("unknown_silence", "there is no such silence", detail=silence_id, fix="loradeck notice ls")
        await self._save(left)

    async def _save(self, silences: list[Silence]) -> None:
        text = json.dumps([one.model_dump(mode="json") for one in silences])
        await self.store(lambda s: s.set_meta(SILENCES, text))
        self.silences = silences


def _of_event(event: Event, kind: NoticeKind, severity: Severity, words: str) -> Notice:
    node = str(event.payload["node"]) if event.kind is EventKind.NODE_CORDON else None
    return Notice(
        id=f"event-{event.id}",
        kind=kind,
        severity=severity,
        at_ms=event.at_ms,
        tenant=event.tenant or None,
        route=event.route,
        node=node,
        title=f"{event.where}: {words} ({event.kind.value})"[:LONGEST],
        detail=(event.reason or "")[:LONGEST],
        command=f"loradeck node show {node}" if node else f"loradeck open {event.tenant} {event.route}",
    )
