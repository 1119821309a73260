"""Feedback at the hub: taken from nodes and people, tied to the answer ledger, kept as long as a tenant says."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.personal_data import redacted
from loradeck.hub.data.answer_ledger import AnswerLedger
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.data import feedback as rules
from loradeck.rules.data.answer_ledger import HOUR_MS, kept_from, window
from loradeck.rules.errors import Refused
from loradeck.schemas.answer_ledger import LedgerRow
from loradeck.schemas.feedback import Feedback, FeedbackPage, FeedbackRow, FeedbackTaken
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.feedback")

TIE_S = 600.0
"""Seconds between two rounds of tying what waits, and of removing what no policy keeps any more."""

HOUR_ROWS = 20_000
"""Rows of one tenant that are taken in an hour, from all nodes and people together."""

WAITING = 5_000
"""Rows that one round ties at most."""

SEGMENTS = 500
"""Segments that are read at most for the rows of one tenant in one round."""


@dataclass(eq=False)
class FeedbackBook:
    """Takes, ties, lists and removes feedback."""

    _log: Log
    _store: StoreThread
    _ledger: AnswerLedger
    _clock: Clock
    _taken: Counter[str] = field(default_factory=Counter, init=False)
    """Rows of each tenant in the hour that runs."""
    _hour: int = field(default=0, init=False)

    def days(self, tenant: str) -> int:
        """The days for which a tenant keeps feedback; 0: it takes none. Raises: Refused `unknown_tenant`."""
        state = self._log.state.tenant(tenant)
        return 0 if state.offboarded else state.data.feedback_days

    async def take(self, tenant: str, rows: Sequence[FeedbackRow], by: str, *, node: bool) -> FeedbackTaken:
        """Takes a batch of one tenant's feedback. Taking it again changes nothing.

        Args:
            by: the node that it came over, or who imports it.

        Raises: Refused: `unknown_tenant`; `feedback_off`: the tenant keeps none; `feedback_full`.
        """
        state, days, now_ms = self._log.state.tenant(tenant), self.days(tenant), self._clock.now_ms()
        if not days:
            raise Refused(
                "feedback_off",
                f"{tenant} keeps no feedback",
                fix=f"a releaser sets for how long: loradeck tenant data {tenant} --feedback-days 90 --reason WHY",
            )
        self._count(tenant, len(rows), now_ms)
        kept, refused = [], list[tuple[str, str]]()
        for row in rows:
            flaw = rules.flaw_of(row)
            if flaw is None and row.route not in state.routes:
                flaw = f"{tenant} has no route {row.route}"
            if flaw is None and not kept_from(days, now_ms) <= row.at_ms <= now_ms + HOUR_MS:
                flaw = "it is older than the tenant keeps feedback, or of a time that has not come"
            if flaw is not None:
                refused.append((row.request, flaw))
                continue
            text, value = redacted(row.text), redacted(row.value)
            data = row.model_dump() | {"text": text, "value": value, "caller": row.caller if node else ""}
            changed = (text, value) != (row.text, row.value)
            kept.append(Feedback(**data, tenant=tenant, by=by, received_ms=now_ms, redacted=changed))
        tied, waiting, untied = await self._tie(tenant, kept, node=node)
        if tied or waiting:
            await self._store(partial(_put, [*tied, *waiting]), background=True)
        refused += untied
        return FeedbackTaken(kept=len(tied) + len(waiting), waiting=len(waiting), refused=tuple(refused))

    def _count(self, tenant: str, rows: int, now_ms: int) -> None:
        if now_ms // HOUR_MS != self._hour:
            self._hour, self._taken = now_ms // HOUR_MS, Counter()
        if self._taken[tenant] + rows > HOUR_ROWS:
            raise Refused(
                "feedback_full",
                f"{tenant} has given as much feedback as an hour takes",
                detail=f"{HOUR_ROWS} rows",
                fix="send it later",
            )
        self._taken[tenant] += rows

    async def page(self, tenant: str, *, after: int, waiting: bool, limit: int) -> FeedbackPage:
        """A page of a tenant's feedback, after a number. `waiting`: what nothing vouches for yet, and nothing else."""
        self._log.state.tenant(tenant)
        found = await self._store(
            lambda s: s.feedback(tenant, after=after, tied=not waiting, limit=limit), background=True
        )
        last = found[-1][0] if len(found) == limit else None
        return FeedbackPage(rows=tuple(row for _, row in found), after=last)

    async def erase(self, tenant: str, *, request: str | None, containing: str | None) -> int:
        """Removes a tenant's feedback on a request, or whose words contain a text in whichever case. Returns how many
        rows went.

        Raises: Refused: `unknown_tenant`, `invalid_request`: neither is given.
        """
        self._log.state.tenant(tenant)
        if not request and not containing:
            raise Refused("invalid_request", "which feedback?", detail="request, containing", fix="give one of them")
        sought, removed = (containing or "").casefold(), 0
        for waiting in (False, True):
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
                    await self._store(partial(_drop, gone), background=True)
                    removed += len(gone)
        return removed

    # ---- what happens by itself ----------------------------------------------------------------------------

    async def keep(self) -> None:
        """Ties what waits, and removes what nothing vouches for and what no policy keeps any more."""
        found = await self._store(lambda s: s.feedback_waiting(limit=WAITING), background=True)
        by_tenant = defaultdict[str, list[Feedback]](list)
        for _, row in found:
            by_tenant[row.tenant].append(row)
        for tenant, rows in by_tenant.items():
            over_node = [row for row in rows if row.caller]
            imported = [row for row in rows if not row.caller]
            for part, node in ((over_node, True), (imported, False)):
                tied, _, untied = await self._tie(tenant, part, node=node)
                forged = {request for request, _ in untied}
                gone = [row for row in part if row.request in forged]
                if gone:
                    log.warning("%d rows of feedback of %s are dropped: %s", len(gone), tenant, untied[0][1])
                    await self._store(partial(_drop, gone), background=True)
                if tied:
                    await self._store(partial(_put, tied), background=True)
        now_ms, names = self._clock.now_ms(), list(self._log.state.tenants)
        before = {name: kept_from(days, now_ms) if (days := self.days(name)) else now_ms for name in names}
        if gone_by_age := await self._store(lambda s: s.expire_feedback(before), background=True):
            log.info("%d rows of feedback are over and removed", gone_by_age)

    async def _tie(
        self, tenant: str, rows: Sequence[Feedback], *, node: bool
    ) -> tuple[list[Feedback], list[Feedback], list[tuple[str, str]]]:
        """Returns what is vouched for, what waits for that, and the request ids of what is refused, with why."""
        ledger = self._ledger.days(tenant) > 0
        found = await self._found(tenant, rows) if ledger and rows else {}
        tied, waiting, refused = list[Feedback](), list[Feedback](), list[tuple[str, str]]()
        now_ms = self._clock.now_ms()
        for row in rows:
            said = rules.tie(
                *(row, found.get(row.request, [])),
                ledger=ledger,
                node=node,
                received_ms=row.received_ms,
                now_ms=now_ms,
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
        """The ledger's rows of the requests of some feedback, by request. Each segment is read once."""
        now_ms, asked = self._clock.now_ms(), {row.request for row in rows}
        times = [window(request, None, now_ms) for request in asked]
        found = defaultdict[str, list[LedgerRow]](list)
        since_ms, until_ms = min(t[0] for t in times), max(t[1] for t in times)
        for segment in await self._ledger.at([tenant], since_ms, until_ms, limit=SEGMENTS):
            if not any(segment.first_ms <= until and since <= segment.last_ms for since, until in times):
                continue
            try:
                for one in await asyncio.to_thread(self._ledger.rows, segment, asked):
                    found[one.request].append(one)
            except BadArtifact as bad:
                log.warning("segment %s of %s cannot be read: %s", segment.sha256, segment.node, bad)
        return found


def _put(rows: Sequence[Feedback], store: Store) -> None:
    store.put_feedback(rows)


def _drop(rows: Sequence[Feedback], store: Store) -> None:
    store.drop_feedback(rows)
