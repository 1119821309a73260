"""The answer ledger at the hub: segments from nodes, anchored in the audit trail, kept as long as a tenant says."""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from loradeck.artifacts import Blobs
from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.ledger_rows import head_of, rows_of
from loradeck.hub.log.audit import HUB, AuditTrail
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread, calling
from loradeck.rules.clocks import HOUR_MS
from loradeck.rules.data import answer_ledger as rules
from loradeck.rules.errors import Refused
from loradeck.rules.merkle import Frontier, path_of
from loradeck.schemas.answer_ledger import Anchor, LedgerRow, Segment
from loradeck.schemas.audit import LEDGER, AuditDraft, AuditLine
from loradeck.schemas.ids import short
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.ledger")

KEEP_S = 600.0
"""Seconds between two rounds of anchoring, and of removing what no policy keeps any more."""

NODE_BYTES = 1 << 30
"""Bytes that one node may send in an hour."""

NODE_SEGMENTS, TENANT_SEGMENTS = 20_000, 600
"""Segments that one node may send in an hour, and of one tenant: it seals one for each tenant, hour and 32 MiB."""

LEAVES = 10_000
"""Segments under one anchor at most."""

_TENANTS = 100
_PAGE = 500
_LINKS = 1000
"""Links of a chain that are looked at from a segment on."""


@dataclass
class _Sent:
    hour: int
    size: int = 0
    segments: Counter[str] = field(default_factory=Counter)
    """By tenant."""


@dataclass(eq=False)
class AnswerLedger:
    """Takes, anchors, removes and reads the segments of the answer ledger that nodes send."""

    _log: Log
    _store: StoreThread
    _blobs: Blobs
    _audit: AuditTrail
    _clock: Clock
    _sent: dict[str, _Sent] = field(default_factory=dict, init=False)
    """What each node has sent in the hour in which it sent last."""

    async def take(self, node: str, tenant: str, sha256: str, body: bytes) -> bool:
        """Takes a segment of a node; returns whether it is kept, which the tenant's policy decides. Taking one again
        changes nothing.

        Raises:
            Refused: `unknown_tenant`; `ledger_full`: the node sends more than it could have answered.
            BadArtifact: `bad_segment`, `digest_mismatch`; `disk_full`, `store_unavailable`.
        """
        days = self.days(tenant)
        head = await asyncio.to_thread(head_of, body)
        now_ms = self._clock.now_ms()
        if (flaw := rules.flaw_of(head, node, tenant, now_ms)) is not None:
            raise BadArtifact("bad_segment", "this is no segment that the node may send", flaw, "report it")
        if head.last_ms < rules.kept_from(days, now_ms):
            return False
        self._count(node, tenant, len(body), now_ms)
        await asyncio.to_thread(self._keep, sha256, body)
        known = await self._store(
            lambda s: s.segments_of(head.chain, tenant, from_seq=head.seq, limit=_PAGE), background=True
        )
        if all(one.sha256 != sha256 for one in known):
            segment = Segment(**head.model_dump(), sha256=sha256, size=len(body), received_ms=now_ms)
            await self._store(lambda s: s.put_segments([segment]), background=True)
        return True

    def days(self, tenant: str) -> int:
        """The days for which a tenant's rows are kept; 0: it keeps none."""
        return self._log.state.tenant(tenant).keeps.ledger_days

    def _count(self, node: str, tenant: str, size: int, now_ms: int) -> None:
        sent = self._sent.get(node)
        if sent is None or sent.hour != now_ms // HOUR_MS:
            sent = self._sent[node] = _Sent(now_ms // HOUR_MS)
        if (
            sent.size + size > NODE_BYTES
            or sent.segments.total() >= NODE_SEGMENTS
            or sent.segments[tenant] >= TENANT_SEGMENTS
        ):
            raise Refused(
                "ledger_full",
                f"{node} has sent as much of its ledger as an hour takes",
                detail=f"{NODE_BYTES >> 20} MiB, {NODE_SEGMENTS} segments, {TENANT_SEGMENTS} of one tenant",
                fix="send it later",
            )
        sent.size += size
        sent.segments[tenant] += 1

    def _keep(self, sha256: str, body: bytes) -> None:
        if self._store.reserve is not None:
            self._store.reserve.check_upload(len(body))
        with self._blobs.receive(sha256, size=len(body)) as incoming:
            incoming.write(body)
            incoming.keep()

    # ---- what happens by itself ----------------------------------------------------------------------------

    async def keep(self) -> None:
        """Anchors what is new, and removes what no policy keeps any more."""
        await self.anchor()
        await self.expire()

    async def anchor(self) -> None:
        """Names segments that have no anchor yet in lines of the audit trail, and gives each of them its proof."""
        while new := await self._store(lambda s: s.segments_to_anchor(limit=LEAVES), background=True):
            await self._anchor(new)

    async def _anchor(self, new: Sequence[Segment]) -> None:
        leaves = [rules.leaf(segment) for segment in new]
        root = Frontier().extended(leaves).head.root
        subject = {"segments": str(len(new)), "root": root}
        line = await self._audit.write(AuditDraft(actor=HUB, call=LEDGER, subject=subject))
        for at in range(0, len(new), _PAGE):
            anchored = [
                segment.model_copy(
                    update={
                        "anchor": Anchor(
                            line=line, root=root, at=at + i, size=len(new), path=tuple(path_of(leaves, at + i))
                        )
                    }
                )
                for i, segment in enumerate(new[at : at + _PAGE])
            ]
            await self._store(calling(Store.put_segments, anchored), background=True)

    async def expire(self) -> None:
        """Removes segments whose tenant does not keep them any more, the records first."""
        now_ms, tenants = self._clock.now_ms(), list(self._log.state.tenants)
        for at in range(0, len(tenants), _TENANTS):
            before = {name: rules.kept_from(self.days(name), now_ms) for name in tenants[at : at + _TENANTS]}
            while gone := await self._ended(before):
                await self._store(calling(Store.drop_segments, gone), background=True)
                await asyncio.to_thread(self._blobs.delete, gone)
                log.info("%d segments of the answer ledger are over and removed", len(gone))

    async def _ended(self, before: dict[str, int]) -> list[str]:
        found = await self._store(
            lambda s: [s.segments_ended(tenant, ms, limit=_PAGE) for tenant, ms in before.items()], background=True
        )
        return [segment.sha256 for part in found for segment in part]

    # ---- reading -------------------------------------------------------------------------------------------

    async def at(self, tenants: Iterable[str], since_ms: int, until_ms: int, *, limit: int) -> list[Segment]:
        """Finds segments of tenants that may have rows of a time: `limit` of them, and perhaps some more."""
        found: list[Segment] = []
        for tenant in tenants:
            asked = calling(Store.segments_at, tenant, since_ms, until_ms, limit=limit)
            found += await self._store(asked, background=True)
            if len(found) > limit:
                break
        return found

    def rows(self, segment: Segment, requests: Container[str]) -> list[LedgerRow]:
        """The rows of some requests in a segment. Blocking.

        Raises: BadArtifact: `unknown_blob`, `digest_mismatch`, `bad_segment`, `store_unavailable`.
        """
        digest = hashlib.sha256()

        def read() -> Iterator[bytes]:
            for piece in self._blobs.open(segment.sha256):
                digest.update(piece)
                yield piece

        found = list(rows_of(read(), requests))
        if digest.hexdigest() != segment.sha256:
            raise BadArtifact("digest_mismatch", "the segment is not what the node sent", segment.sha256)
        return found

    async def proof(self, segment: Segment) -> tuple[list[str], list[str]]:
        """Checks a segment's chain and anchor. Returns what holds and what does not, in words."""
        proven = [f"segment {short(segment.sha256)} is what {segment.node} sent: its digest holds"]
        around = await self._store(
            lambda s: s.segments_of(segment.chain, segment.tenant, from_seq=segment.seq - 1, limit=_LINKS),
            background=True,
        )
        doubts = rules.chain_doubts(around, segment)
        if not doubts:
            first, last = around[0].seq, around[-1].seq
            proven.append(f"the node's chain holds from its segment {first} to {last}")
        if segment.anchor is None:
            doubts.append("the segment is not anchored in the audit trail yet: that happens every ten minutes")
        elif rules.anchor_holds(segment) and await self._is_named(segment.anchor):
            proven.append(f"it is anchored in line {segment.anchor.line} of the audit trail")
        else:
            doubts.append(f"line {segment.anchor.line} of the audit trail does not name the segment")
        return proven, doubts

    async def _is_named(self, anchor: Anchor) -> bool:
        texts = await self._store(lambda s: s.audit_texts(anchor.line - 1, 1), background=True)
        line = AuditLine.model_validate_json(texts[0][1]) if texts and texts[0][0] == anchor.line else None
        return line is not None and line.call == LEDGER and line.subject.get("root") == anchor.root
