"""What stood behind an answer: its rows in the answer ledger, joined with the registry, the log and the attestations.

No node is asked, unless the ledger does not have the request yet.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from loradeck.artifacts.errors import BadArtifact
from loradeck.hub.data.answer_ledger import AnswerLedger
from loradeck.hub.data.datasets import called
from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread, calling
from loradeck.hub.views.asked_of_nodes import Traces
from loradeck.rules.clocks import HOUR_MS
from loradeck.rules.data import answer_ledger as rules
from loradeck.rules.errors import Refused
from loradeck.schemas.answer_ledger import Explained, ExplainedRow, LedgerRow, NamedDigest, PutThere, Segment, Weights
from loradeck.schemas.attestation import AttestationKind, GateResult
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import MOVES, Event
from loradeck.schemas.manifest import AdapterVersion, Form, Release
from loradeck.schemas.trace import TraceRow
from loradeck.store.sql_log import Store

SEARCHED = 2000
"""Segments that one question reads at most."""

ROUTES_ASKED = 50
"""Pointers whose routers are asked at most for what the ledger does not have yet."""

RECENT_MS = 2 * HOUR_MS
"""How long ago a request may have been that only routers know."""

_TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Files of a base that hold its chat template, the one that counts first."""

_PAGE = 1000


@dataclass(eq=False)
class Explanations:
    """Answers one question at a time: each may read many files."""

    _ledger: AnswerLedger
    _log: Log
    _store: StoreThread
    _catalogue: Catalogue
    _facts: Facts
    _traces: Traces
    _clock: Clock
    _one: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def of(
        self, request: str, *, tenant: str | None, at_ms: int | None, sees: Callable[[str], bool]
    ) -> Explained:
        """Explains a request, in one tenant or in all that the caller sees.

        `at_ms`: about when it was asked; None: its id says it, or it was in the last days.

        Raises: Refused: `unknown_tenant`, `too_many_segments`.
        """
        tenants = [self._log.state.tenant(tenant).name] if tenant is not None else sorted(self._log.state.tenants)
        tenants = [name for name in tenants if sees(name)]
        now_ms = self._clock.now_ms()
        since_ms, until_ms = rules.window(request, at_ms, now_ms)
        async with self._one:
            segments = await self._ledger.at(tenants, since_ms, until_ms, limit=SEARCHED + 1)
            if len(segments) > SEARCHED:
                raise Refused(
                    "too_many_segments",
                    f"the request may be in more than {SEARCHED:,} segments of the answer ledger",
                    fix="name its tenant, or about when it was asked",
                )
            rows, unread = await self._found(segments, request)
        if not rows and until_ms >= now_ms - RECENT_MS:
            rows = await self._from_routers(tenants, request)
        return Explained(
            request=request,
            rows=tuple(sorted(rows, key=lambda one: one.row.admitted_ms)),
            searched=len(segments),
            unread=tuple(unread),
            lost=max((segment.lost for segment in segments), default=0),
            since_ms=since_ms,
            until_ms=until_ms,
        )

    async def _found(self, segments: list[Segment], request: str) -> tuple[list[ExplainedRow], list[str]]:
        rows, unread = [], []
        for segment in segments:
            try:
                found = await asyncio.to_thread(self._ledger.rows, segment, (request,))
            except BadArtifact as bad:
                unread.append(f"segment {segment.sha256} of {segment.node} cannot be read: {bad}")
                continue
            if found:
                proof = await self._ledger.proof(segment)
                rows += [await self._explained(segment.tenant, row, segment.node, segment, proof) for row in found]
        return rows, unread

    async def _from_routers(self, tenants: list[str], request: str) -> list[ExplainedRow]:
        keys = [key for key in self._log.state.pointers if key[0] in tenants]
        if len(keys) > ROUTES_ASKED:
            return []
        found = await asyncio.gather(*(self._traces.find(key, request) for key in keys))
        proof: tuple[list[str], list[str]] = ([], ["it is not in the ledger yet: a router said so from its memory"])
        return [
            await self._explained(row.tenant, _ledger_row(row), node, None, proof)
            for part in found
            for node, row in part
        ]

    async def _explained(
        self, tenant: str, row: LedgerRow, node: str, segment: Segment | None, proof: tuple[list[str], list[str]]
    ) -> ExplainedRow:
        key = (tenant, row.route)
        move = await self._move(key, row.generation)
        gate, gate_at_ms = await self._gate(key, row)
        agreement = self._agreement(tenant, row, move)
        return ExplainedRow(
            row=row,
            tenant=tenant,
            node=node,
            build=segment.builds.get(row.replica, "") if segment is not None else "",
            weights=self._weights(tenant, row.release),
            put_there=None if move is None else _put_there(move),
            gate=gate,
            gate_at_ms=gate_at_ms,
            segment=segment,
            proven=(*proof[0], *(() if agreement else ("the log had that release there in that generation",))),
            doubts=(*proof[1], *((agreement,) if agreement else ())),
        )

    # ---- the log -------------------------------------------------------------------------------------------

    async def _move(self, key: PointerKey, generation: int) -> Event | None:
        """The move that made a generation of a pointer; None: the log has none."""
        before: int | None = None
        while True:
            asked = calling(Store.history, tenant=key[0], route=key[1], before_rev=before, limit=_PAGE)
            page = await self._store(asked, background=True)
            for event in page:
                if event.kind in MOVES and event.generation == generation:
                    return event
                if event.generation is not None and event.generation < generation:
                    return None
            if len(page) < _PAGE:
                return None
            before = page[-1].rev

    def _agreement(self, tenant: str, row: LedgerRow, move: Event | None) -> str:
        """Why the log does not bear out what a node says of a row; empty: it does."""
        if move is None or move.pointer is None:
            return f"the log has no move that made generation {row.generation} of {tenant}/{row.route}"
        there = {move.pointer.release}
        if move.pointer.candidate is not None:
            there.add(move.pointer.candidate.release)
        if row.release in there:
            return ""
        release = self._catalogue.release(row.release, tenant)
        if release is not None and release.form is Form.BASE:
            return "the log had another release there: the base alone stood in for one that was not loaded"
        return "the log had another release there: a pin on the node, or its word is wrong"

    async def _gate(self, key: PointerKey, row: LedgerRow) -> tuple[GateResult | None, int | None]:
        """The newest gate result that stood when the request was admitted, and when it was judged."""
        kind, subject = AttestationKind.GATE, row.release
        found = await self._store(
            lambda s: s.attestations(kind=kind, subject=subject, tenant=key[0], route=key[1]), background=True
        )
        before = [one for one in found if one.at_ms <= row.admitted_ms]
        if not before:
            return None, None
        return GateResult.model_validate(before[-1].body), before[-1].at_ms

    # ---- the registry --------------------------------------------------------------------------------------

    def _weights(self, tenant: str, release_id: str) -> Weights:
        catalogue, facts = self._catalogue, self._facts
        release = catalogue.release(release_id, tenant)
        label = catalogue.view(release_id, tenant).label
        if release is None:
            return Weights(release=release_id, label=label)
        version = catalogue.version_of(release)
        return Weights(
            release=release_id,
            label=label,
            form=release.form.value,
            base=self._base(release.base),
            template=self._template(release),
            adapter=_named(version) if version is not None else None,
            recipe=version.manifest.config_hash if version is not None else None,
            merged=self._base(release.merged) if release.merged is not None else None,
            datasets=tuple(self._datasets(release, version)),
            parent=self._parent(version),
            signers=len(facts.signed.get(release.signed_part, ())),
            revoked=facts.revoked.get(release_id, ""),
        )

    def _base(self, digest: str) -> NamedDigest:
        manifest = self._catalogue.bases.get(digest)
        name = f"{manifest.model_id} {manifest.revision}" if manifest is not None else ""
        return NamedDigest(digest=digest, name=f"{self._catalogue.base_label(digest)} {name}".strip())

    def _template(self, release: Release) -> NamedDigest | None:
        manifest = self._catalogue.bases.get(release.served_base)
        files = {file.path: file for file in manifest.files} if manifest is not None else {}
        found = next((files[path] for path in _TEMPLATES if path in files), None)
        return NamedDigest(digest=found.sha256, name=found.path) if found is not None else None

    def _datasets(self, release: Release, version: AdapterVersion | None) -> list[NamedDigest]:
        digests = dict.fromkeys(version.manifest.datasets if version is not None else ())
        for made in self._facts.made.get(release.served_base, ()):
            digests |= dict.fromkeys(made.datasets)
        known = self._catalogue.datasets
        return [NamedDigest(digest=d, name=called(known[d]) if d in known else "") for d in digests]

    def _parent(self, version: AdapterVersion | None) -> NamedDigest | None:
        parent = version.manifest.parent if version is not None else None
        if parent is None:
            return None
        known = self._catalogue.adapters.get(parent)
        return _named(known) if known is not None else NamedDigest(digest=parent, name="")


def _named(version: AdapterVersion) -> NamedDigest:
    return NamedDigest(
        digest=version.digest, name=f"{version.manifest.tenant}/{version.manifest.name} v{version.version}"
    )


def _put_there(move: Event) -> PutThere:
    return PutThere(event=move.id, **move.model_dump(mode="json", include=PutThere.model_fields.keys() - {"event"}))


def _ledger_row(row: TraceRow) -> LedgerRow:
    return LedgerRow.model_validate(row.model_dump(exclude={"seq", "tenant", "admitted_mono_ns"}))
