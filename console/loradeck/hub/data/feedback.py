"""Feedback at the hub: taken from nodes and people, tied to the answer ledger, kept as long as a tenant says."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loradeck.artifacts.blobs.row_keys import RowKeys, unavailable
from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.personal_data import redacted
from loradeck.hub.data.answer_ledger import AnswerLedger
from loradeck.hub.data.erasure_list import ErasureList
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread, calling
from loradeck.hub.progress.votes import Votes
from loradeck.rules.clocks import DAY_MS, HOUR_MS, MINUTE_MS
from loradeck.rules.data import feedback as rules
from loradeck.rules.data.answer_ledger import kept_from, spans
from loradeck.rules.errors import Refused
from loradeck.schemas.answer_ledger import LedgerRow
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.feedback import Feedback, FeedbackKind, FeedbackPage, FeedbackRow, FeedbackTaken, Withdrawn
from loradeck.schemas.ids import digest_of
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.feedback")

TIE_S = 600.0
"""Seconds between two rounds of tying what waits, and of removing what no policy keeps any more."""

HOUR_ROWS = 20_000
"""Rows of one tenant that are taken in an hour, from all nodes and people together."""

TENANT_WAITING = 50_000
"""Rows of one tenant that wait for the answer ledger at most."""

WAITING = 5_000
"""Rows that are tied together at most."""

SEGMENTS, SPANS = 500, 500
"""Segments that are read at most for rows that are tied together, and spans of time that they are looked for in."""

_TENANTS = 100


@dataclass(eq=False, kw_only=True)
class FeedbackBook:
    """Takes, ties, lists and removes feedback."""

    log: Log
    store: StoreThread
    ledger: AnswerLedger
    attestations: Attestations
    votes: Votes
    clock: Clock
    keys: RowKeys | None
    """The keys of what callers wrote; None: it lies as it is."""
    erasure_list: ErasureList
    _taken: Counter[str] = field(default_factory=Counter, init=False)
    """Rows of each tenant in the hour that runs."""
    _waits: Counter[str] = field(default_factory=Counter, init=False)
    """Rows of each tenant that waited in the last round, and those that came since."""
    _hour: int = field(default=0, init=False)
    _minute: int = field(default=0, init=False)
    _heard: set[tuple[str, ...]] = field(default_factory=set, init=False)
    """Whose feedback has counted in the minute that runs."""

    def days(self, tenant: str) -> int:
        """The days for which a tenant keeps feedback; 0: it takes none. Raises: Refused `unknown_tenant`."""
        return self.log.state.tenant(tenant).keeps.feedback_days

    async def take(self, tenant: str, rows: Sequence[FeedbackRow], by: str, *, node: bool) -> FeedbackTaken:
        """Takes a batch of one tenant's feedback. Taking it again changes nothing.

        `by`: the node that it came over, or who imports it.

        Raises: Refused: `unknown_tenant`; `feedback_off`: the tenant keeps none; `feedback_full`. BadArtifact:
        `key_unavailable`: nothing was taken.
        """
        state, days, now_ms = self.log.state.tenant(tenant), self.days(tenant), self.clock.now_ms()
        if not days:
            raise Refused(
                "feedback_off",
                f"{tenant} keeps no feedback",
                fix=f"a releaser sets for how long: loradeck tenant data {tenant} --feedback-days 90 --reason WHY",
            )
        self._count(tenant, len(rows), now_ms)
        fitting, refused = list[FeedbackRow](), list[tuple[str, str]]()
        for row in rows:
            flaw = rules.flaw_of(row)
            if flaw is None and node and not row.caller:
                flaw = "a node says whose feedback it is"  # it would replace what a person has imported
            if flaw is None and row.route not in state.routes:
                flaw = f"{tenant} has no route {row.route}"
            if flaw is None and not kept_from(days, now_ms) <= row.at_ms <= now_ms + HOUR_MS:
                flaw = "it is older than the tenant keeps feedback, or of a time that has not come"
            if flaw is not None:
                refused.append((row.request, flaw))
            else:
                fitting.append(row if node else row.model_copy(update={"caller": ""}))
        told = {"tenant": tenant, "by": by, "received_ms": now_ms}
        kept = await asyncio.to_thread(_without_personal_data, fitting, told)  # a batch of long texts takes a second
        tied, waiting, untied = await self._tie(tenant, kept, node=node)
        if tied or waiting:
            lying = await asyncio.to_thread(sealed, self.keys, [*tied, *waiting])
            known = await self.store(calling(Store.put_feedback, lying), background=True)
            self._judge([row for row, before in zip(lying, known, strict=True) if row.tied and before is None])
            await self._destroy(known)
        self._waits[tenant] += len(waiting)
        refused += untied
        return FeedbackTaken(kept=len(tied) + len(waiting), waiting=len(waiting), refused=tuple(refused))

    def _count(self, tenant: str, rows: int, now_ms: int) -> None:
        if now_ms // HOUR_MS != self._hour:
            self._hour, self._taken = now_ms // HOUR_MS, Counter()
        if self._waits[tenant] + rows > TENANT_WAITING:
            raise Refused(
                "feedback_full",
                f"as much feedback of {tenant} waits for the answer ledger as is kept",
                detail=f"{TENANT_WAITING} rows",
                fix="send it later; loradeck feedback ls --waiting says what waits",
            )
        if self._taken[tenant] + rows > HOUR_ROWS:
            raise Refused(
                "feedback_full",
                f"{tenant} has given as much feedback as an hour takes",
                detail=f"{HOUR_ROWS} rows",
                fix="send it later",
            )
        self._taken[tenant] += rows

    async def page(self, tenant: str, *, after: int, waiting: bool, limit: int) -> FeedbackPage:
        """A page of a tenant's feedback, after a number. `waiting`: what nothing vouches for yet, and nothing else.

        Raises: Refused `unknown_tenant`; BadArtifact `key_unavailable`.
        """
        self.log.state.tenant(tenant)
        found = await self.store(
            lambda s: s.feedback(tenant, after=after, tied=not waiting, limit=limit), background=True
        )
        rows = await asyncio.to_thread(opened, self.keys, [row for _, row in found])
        return FeedbackPage(rows=tuple(rows), after=found[-1][0] if len(found) == limit else None)

    async def _destroy(self, texts: Sequence[str | None]) -> None:
        if self.keys is not None:
            await asyncio.to_thread(self.keys.destroy_texts, list(filter(None, texts)))

    async def erase(self, tenant: str, by: str, *, request: str | None, containing: str | None) -> int:
        """Removes a tenant's feedback on a request, or whose words contain a text in whichever case. Returns how many
        rows went.

        First it is attested of which answers: a copy that somebody has exported is not labelled after that, and a hub
        that is restored from before it drops what was said of them.

        Raises: Refused: `unknown_tenant`, `invalid_request`: neither is given. BadArtifact: `key_unavailable`.
        """
        self.log.state.tenant(tenant)
        if not request and not containing:
            raise Refused("invalid_request", "which feedback?", detail="request, containing", fix="give one of them")
        sought, removed = (containing or "").casefold(), 0
        for waiting in (True, False):  # what is tied meanwhile moves from the first to the end of the second
            after: int | None = 0
            while after is not None:
                page = await self.page(tenant, after=after, waiting=waiting, limit=500)
                after = page.after
                gone = [
                    row
                    for row in page.rows
                    if row.request == request or (sought and sought in f"{row.value}\n{row.text}".casefold())
                ]
                if gone:
                    said = Withdrawn(requests=tuple(sorted({(row.route, row.request) for row in gone})))
                    subject = digest_of({"tenant": tenant})
                    await self.attestations.state(AttestationKind.WITHDRAWN, subject, tenant, said, by)
                    await self.erasure_list.agree()  # in this order: what is not done of it is found again
                    await self._destroy([row.sealed for row in gone])
                    await self.store(calling(Store.drop_feedback, gone), background=True)
                    removed += len(gone)
        return removed

    # ---- what happens by itself ----------------------------------------------------------------------------

    async def keep(self) -> None:
        """Ties what waits, and removes what nothing vouches for and what no policy keeps any more."""
        after, self._waits = 0, Counter()
        while found := await self.store(calling(Store.feedback_waiting, after=after, limit=WAITING), background=True):
            after = found[-1][0]
            await self._tie_waiting(found)
        now_ms, names = self.clock.now_ms(), list(self.log.state.tenants)
        before = {name: kept_from(days, now_ms) if (days := self.days(name)) else now_ms for name in names}
        if self.keys is not None:
            await asyncio.to_thread(self.keys.expire_texts, {name: ms // DAY_MS for name, ms in before.items()})
        for at in range(0, len(names), _TENANTS):
            part = {name: before[name] for name in names[at : at + _TENANTS]}
            if gone_by_age := await self.store(calling(Store.expire_feedback, part), background=True):
                log.info("%d rows of feedback are over and removed", gone_by_age)

    async def seal_all(self) -> None:
        """Seals what came before there were keys. What fails is tried again by the next call."""
        after = 0
        while self.keys is not None and (
            found := await self.store(calling(Store.texts, sealed=False, after=after, limit=PIECE), background=True)
        ):
            after, number = found[-1][0], {row.key: n for n, row in found}
            rows = await asyncio.to_thread(sealed, self.keys, [row for _, row in found])
            done = [(number[row.key], row) for row in rows if row.sealed]
            await self.store(calling(Store.tie_feedback, done), background=True)

    async def _tie_waiting(self, waiting: Sequence[tuple[int, Feedback]]) -> None:
        by_tenant, number = defaultdict[str, list[Feedback]](list), dict[tuple[str, ...], int]()
        for n, row in waiting:
            by_tenant[row.tenant].append(row)
            number[row.key] = n
        for tenant, rows in by_tenant.items():
            for node in (True, False):
                part = [row for row in rows if bool(row.caller) is node]
                tied, still, untied = await self._tie(tenant, part, node=node)
                self._waits[tenant] += len(still)
                forged = {request for request, _ in untied}
                gone = [row for row in part if row.request in forged]
                if gone:
                    log.warning("%d rows of feedback of %s are dropped: %s", len(gone), tenant, untied[0][1])
                    await self.store(calling(Store.drop_feedback, gone), background=True)
                self._judge(tied)
                if tied:
                    numbered = [(number[row.key], row) for row in tied]
                    await self.store(calling(Store.tie_feedback, numbered), background=True)

    def _judge(self, rows: Sequence[Feedback]) -> None:
        """Counts what callers say of answers that the ledger has, each caller once a minute; what it repeats is not
        among them.
        """
        minute = self.clock.now_ms() // MINUTE_MS
        if minute != self._minute:
            self._minute, self._heard = minute, set()
        for row in rows:
            who = (row.tenant, row.route, row.caller)
            if row.generation is None or row.release is None or not row.caller or who in self._heard:
                continue
            if (corrected := rules.corrects(row.kind, row.value)) is not None:
                self._heard.add(who)
                key = (row.tenant, row.route)
                self.votes.add_feedback(key, (row.generation, row.release), row.by, corrected=corrected)

    async def _tie(
        self, tenant: str, rows: Sequence[Feedback], *, node: bool
    ) -> tuple[list[Feedback], list[Feedback], list[tuple[str, str]]]:
        """Returns what is vouched for, what waits for that, and the request ids of what is refused, with why."""
        ledger = self.ledger.days(tenant) > 0
        found = await self._found(tenant, rows) if ledger and rows else {}
        tied, waiting, refused = list[Feedback](), list[Feedback](), list[tuple[str, str]]()
        now_ms = self.clock.now_ms()
        for row in rows:
            said = rules.tie(
                row, found.get(row.request, []), ledger=ledger, node=node, received_ms=row.received_ms, now_ms=now_ms
            )
            if said.verdict is rules.Verdict.REFUSE:
                refused.append((row.request, said.why))
            elif said.verdict is rules.Verdict.WAIT:
                waiting.append(row)
            elif said.row is None:
                tied.append(row.model_copy(update={"tied": "router"}))
            else:
                by = said.row
                update = {"tied": "ledger", "release": by.release, "generation": by.generation}
                tied.append(row.model_copy(update=update | {"bad": by.bad if by.checked else None}))
        return tied, waiting, refused

    async def _found(self, tenant: str, rows: Sequence[Feedback]) -> dict[str, list[LedgerRow]]:
        """The ledger's rows of the requests of some feedback, by request. Each segment is read once, the newest first,
        so that ids of long ago that somebody makes up do not hide what was answered today.
        """
        asked = {row.request for row in rows}
        found, read = defaultdict[str, list[LedgerRow]](list), set[str]()
        for since_ms, until_ms in spans(asked, self.clock.now_ms())[:SPANS]:
            if len(read) >= SEGMENTS:
                break
            for segment in await self.ledger.at([tenant], since_ms, until_ms, limit=SEGMENTS):
                if segment.sha256 in read or segment.first_ms > until_ms or len(read) >= SEGMENTS:
                    continue
                read.add(segment.sha256)
                try:
                    for one in await asyncio.to_thread(self.ledger.rows, segment, asked):
                        found[one.request].append(one)
                except BadArtifact as bad:
                    log.warning("segment %s of %s cannot be read: %s", segment.sha256, segment.node, bad)
        return found


def _without_personal_data(rows: Sequence[FeedbackRow], told: dict[str, Any]) -> list[Feedback]:
    found = []
    for row in rows:
        said = {"text": redacted(row.text), "value": redacted(row.value)}
        changed = any(getattr(row, name) != text for name, text in said.items())
        found.append(Feedback(**(row.model_dump() | said | told), redacted=changed))
    return found


PIECE = 500
"""Rows that are read at a time."""

_PLACE = {FeedbackKind.CORRECTION: "text"}  # of other kinds it is the value: `rules.data.feedback.flaw_of`


# Feedback as it lies in the database: what callers wrote is under keys. What is counted of it is not: thumbs, routes,
# classes of consent, who and when.


def sealed(keys: RowKeys | None, rows: Sequence[Feedback]) -> list[Feedback]:
    """Seals what callers wrote, where there are keys. Raises: BadArtifact: `key_unavailable`."""
    done, by_day = list(rows), defaultdict[tuple[str, int], list[int]](list)
    if keys is None:
        return done
    for at, row in enumerate(rows):
        if row.kind is not FeedbackKind.THUMB:
            by_day[row.tenant, row.at_ms // DAY_MS].append(at)
    for (tenant, day), places in by_day.items():
        texts = keys.seal_texts(tenant, day, [rows[at].value or rows[at].text for at in places])
        for at, text in zip(places, texts, strict=True):
            done[at] = rows[at].model_copy(update={"value": "", "text": "", "sealed": text})
    return done


def opened(keys: RowKeys | None, rows: Sequence[Feedback]) -> list[Feedback]:
    """Puts back what callers wrote. Rows whose keys were destroyed are left out.

    Raises: BadArtifact: `key_unavailable`.
    """
    under = [row.sealed for row in rows if row.sealed]
    if keys is None and under:
        raise unavailable("feedback is sealed, and this hub has no keys", rows[0].tenant)
    texts = {"": ""} | (keys.open_texts(under) if keys is not None else {})
    return [
        row.model_copy(update={_PLACE.get(row.kind, "value"): texts[row.sealed]} if row.sealed else None)
        for row in rows
        if row.sealed in texts
    ]


def unseal_all(keys: RowKeys, store: Store) -> None:
    """Puts all texts back into a database that no hub has open, as an older Loradeck reads them.

    Raises: BadArtifact: `key_unavailable`: some are still sealed, and nothing is lost.
    """
    after = 0
    while found := store.texts(sealed=True, after=after, limit=PIECE):
        after, number = found[-1][0], {row.sealed: n for n, row in found}
        plain = [(row.model_dump_json(), number[row.sealed]) for row in opened(keys, [row for _, row in found])]
        with store.database.transaction() as connection:
            connection.executemany("UPDATE feedback SET body = ?, sealed = '' WHERE n = ?", plain)
