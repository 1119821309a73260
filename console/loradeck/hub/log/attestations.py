"""All that is attested, in memory: the facts that the rules work with; and the only way to attest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Unpack

from pydantic import BaseModel

from loradeck.hub.log.clock import Clock
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.data.policy import DatedEntry
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.moves.rollback_target import PointerFacts, breach_of
from loradeck.rules.quality.health import Breach
from loradeck.rules.quality.reference_days import Stay
from loradeck.rules.quality.stakeholders import Read
from loradeck.schemas.attestation import (
    Acknowledgement,
    Attestation,
    AttestationFilter,
    AttestationKind,
    BaseLineage,
    Deprecation,
    GateResult,
    Look,
)
from loradeck.schemas.candidate import ComparisonResult
from loradeck.schemas.dataset_ledger import Assessment, Erasure, LedgerEntry, OptedOut, OptOut
from loradeck.schemas.flag import FlagRecord, FlagState
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import PointerState
from loradeck.schemas.manifest import Release
from loradeck.schemas.preference import PreferenceReport
from loradeck.store.sql_log import Store

_KEPT = (
    AttestationKind.ATTESTED,
    AttestationKind.SOAKED,
    AttestationKind.REVOCATION,
    AttestationKind.GATE,
    AttestationKind.COMPARISON,
    AttestationKind.LEDGER,
    AttestationKind.AGREEMENT,
    AttestationKind.LINEAGE,
    AttestationKind.ERASURE,
    AttestationKind.ERASED_ELSEWHERE,
    AttestationKind.SIGNATURE,
    AttestationKind.DEPRECATION,
    AttestationKind.DECISION,
    AttestationKind.ASSESSMENT,
    AttestationKind.OPT_OUT,
    AttestationKind.ACKNOWLEDGED,
    AttestationKind.SHARED,
)
"""Kinds held in memory. Reports and canaries are large, and read from the store when somebody asks."""


_AGAINST = (AttestationKind.BREACHED, AttestationKind.FLAG)
"""Kinds held in memory of which the newest counts, of whichever kind it is."""


class Facts:
    """Attested facts by pointer, release, adapter and dataset."""

    def __init__(self) -> None:
        self._attested: dict[PointerKey, dict[str, int]] = defaultdict(dict)
        self._first: dict[PointerKey, str] = {}
        self._stays: dict[PointerKey, list[Stay]] = defaultdict(list)
        self._generations: dict[PointerKey, dict[int, tuple[int, int]]] = defaultdict(dict)
        self._soaked: dict[PointerKey, set[str]] = defaultdict(set)
        self._breached: dict[PointerKey, dict[str, tuple[str, int]]] = defaultdict(dict)
        self._ruled_out_by: dict[PointerKey, dict[str, int]] = defaultdict(dict)
        """Pointer -> release -> when the flag was raised that has ruled it out."""
        self._flags: dict[PointerKey, dict[str, tuple[FlagRecord, int]]] = defaultdict(dict)
        self._comparisons: dict[PointerKey, dict[str, ComparisonResult]] = defaultdict(dict)
        self._gates: dict[PointerKey, dict[str, GateResult]] = defaultdict(dict)
        self._looks: dict[tuple[PointerKey, str | None], list[tuple[str, Look]]] = defaultdict(list)
        self.acknowledged: dict[tuple[PointerKey, str], list[Read]] = defaultdict(list)
        """Pointer and release -> who has read how its card differs from that of what was live."""

        self.revoked: dict[str, str] = {}
        self.ledger: dict[str, DatedEntry] = {}
        """Dataset -> its entry in the dataset ledger."""
        self.judged: dict[str, str] = {}
        """Dataset -> the judgements that it was made of, which agreed enough."""

        self.agreed: dict[str, PreferenceReport] = {}
        """Dataset that was made of judgements -> the report on it, without its raters."""

        self.signed: dict[str, set[str]] = defaultdict(set)
        """Adapter or weights -> public keys that have signed it; each was verified when it was sent."""

        self.deprecated: dict[str, Deprecation] = {}
        """Adapter or weights -> from when on it is not promoted."""

        self.decided: dict[str, set[str]] = defaultdict(set)
        """Worksheet -> the tenants that have it."""

        self.assessed: dict[str, dict[str, Assessment]] = defaultdict(dict)
        """Tenant -> pattern of sources -> its newest impact assessment."""

        self.opted_out: dict[str, set[OptedOut]] = defaultdict(set)
        """Tenant -> its opt-out list."""

        self.shared: set[str] = set()
        """Bases that jobs of one tenant made and others may use."""

        self.made: dict[str, list[BaseLineage]] = defaultdict(list)
        """Base -> what jobs made it from."""

        self.made_ms: dict[str, int] = {}
        """Base -> when a job last made it, milliseconds since 1970 UTC."""

        self.erased: dict[str, set[str]] = defaultdict(set)
        """Dataset -> digests of its erased rows."""

        self.erased_elsewhere: dict[str, set[str]] = defaultdict(set)
        """Dataset -> digests of its rows that another tenant had erased."""

        self.erased_of: dict[str, set[str]] = defaultdict(set)
        """Tenant -> digests of rows that may not come back."""

        self.erased_ms: dict[str, int] = {}
        """Tenant -> when rows of it were erased last, milliseconds since 1970 UTC."""

    @classmethod
    def load(cls, store: Store) -> Facts:
        """The facts that the store's attestations add up to."""
        facts = cls()
        for kind in _KEPT:
            for attestation in store.attestations(kind=kind):
                facts.add(attestation)
        against = [one for kind in _AGAINST for one in store.attestations(kind=kind)]
        for attestation in sorted(against, key=lambda one: one.seq):
            facts.add(attestation)
        return facts

    def add(self, attestation: Attestation) -> None:
        """Adds an attestation that is durable."""
        body, subject, tenant = attestation.body, attestation.subject, attestation.tenant
        key = (tenant, attestation.route or "")
        match attestation.kind:
            case AttestationKind.REVOCATION:
                self.revoked[subject] = str(body.get("reason", ""))
            case AttestationKind.SIGNATURE if "bundle" in body:
                self.signed[subject].add(str(body["public_key"]))
            case AttestationKind.DEPRECATION:
                self.deprecated[subject] = Deprecation.model_validate(body)
            case AttestationKind.DECISION:
                self.decided[subject].add(tenant)
            case AttestationKind.ASSESSMENT:
                assessment = Assessment.model_validate(body)
                self.assessed[tenant][assessment.source] = assessment
            case AttestationKind.OPT_OUT:
                said, listed = OptOut.model_validate(body), self.opted_out[tenant]
                (listed.difference_update if said.withdrawn else listed.update)(said.people)
            case AttestationKind.SHARED:
                self.shared.add(subject)
            case AttestationKind.LEDGER:
                # The first counts: retention runs from when the rows came in.
                self.ledger.setdefault(
                    subject, DatedEntry(entry=LedgerEntry.model_validate(body), at_ms=attestation.at_ms)
                )
            case AttestationKind.AGREEMENT:
                report = PreferenceReport.model_validate({**body, "raters": ()})
                self.judged[subject], self.agreed[subject] = report.build.judgements, report
            case AttestationKind.LINEAGE:
                self.made[subject].append(BaseLineage.model_validate(body))
                self.made_ms[subject] = attestation.at_ms
            case AttestationKind.ERASURE:
                rows = Erasure.model_validate(body).rows
                self.erased[subject].update(rows)
                self.erased_of[tenant].update(rows)
                self.erased_ms[tenant] = attestation.at_ms
            case AttestationKind.ERASED_ELSEWHERE:
                self.erased_elsewhere[subject].update(Erasure.model_validate(body).rows)
            case AttestationKind.ATTESTED:
                self._attested[key][subject] = attestation.seq
                self._first.setdefault(key, subject)
                if not (stays := self._stays[key]) or stays[-1].release != subject:
                    stays.append(Stay(subject, attestation.at_ms))
                self._generations[key][int(body["generation"])] = (int(body["n"]), int(body["m"]))
            case AttestationKind.SOAKED:
                self._soaked[key].add(subject)
            case AttestationKind.BREACHED:
                breach = Breach(what=body["what"], share=body["share"], n=body["n"], node=body.get("node", ""))
                self._breached[key][subject] = (str(breach), attestation.seq)
            case AttestationKind.FLAG:
                self._flag(key, subject, FlagRecord.model_validate(body), attestation.seq)
            case AttestationKind.COMPARISON:
                self._comparisons[key][subject] = ComparisonResult.model_validate(body)
            case AttestationKind.ACKNOWLEDGED:
                read = Read(attestation.seq, Acknowledgement.model_validate(body))
                self.acknowledged[key, subject].append(read)
            case AttestationKind.GATE:
                result = self._gates[key][subject] = GateResult.model_validate(body)
                look = Look(subject, attestation.seq, attestation.at_ms)
                suites = {result.suite} | {check.suite for check in result.checks if check.suite is not None}
                self._looks[key, result.against] += [(suite, look) for suite in sorted(suites)]
            case _:
                pass

    def _flag(self, key: PointerKey, release: str, flag: FlagRecord, seq: int) -> None:
        """Adds the newest record of a flag.

        What a flag has ruled out stays so until it is cleared, or the same flag turns out to be another's doing. That
        nobody knows whose doing another flag is, or that it is a node's, says nothing about it.
        """
        known = self._breached[key].get(release)
        before = self._ruled_out_by[key].get(release)
        self._flags[key][release] = (flag, seq)
        if flag.counts_against:
            self._breached[key][release] = (str(flag), seq)
            self._ruled_out_by[key][release] = flag.raised_ms
        elif known is not None and (
            flag.state is FlagState.CLEARED or (before == flag.raised_ms and not flag.is_doubt)
        ):
            del self._breached[key][release]

    def of(self, key: PointerKey) -> PointerFacts:
        """The facts about a pointer's releases, for the rules."""
        attested, breached = self._attested.get(key, {}), self._breached.get(key, {})
        flags = self._flags.get(key, {})
        return PointerFacts(
            attested=tuple(sorted(attested, key=lambda r: attested[r], reverse=True)),
            soaked=frozenset(self.soaked(key)),
            breached={release: why for release, (why, _) in breached.items()},
            doubted={release: str(flag) for release, (flag, _) in flags.items() if flag.is_doubt},
            revoked=self.revoked,
            breaches={release: seq for release, (_, seq) in (*flags.items(), *breached.items())},
        )

    def attested_generation(self, key: PointerKey, generation: int) -> tuple[int, int] | None:
        """(proven replicas, placed replicas) with which a generation was attested; None: it was not."""
        return self._generations.get(key, {}).get(generation)

    def stays(self, pointer: PointerState, since_ms: int) -> tuple[Stay, ...]:
        """Lists the releases that became live on a pointer, oldest first, by when they were attested. One that never
        was is left out, but for the live one.

        `since_ms`: when that became live.
        """
        assert pointer.release is not None
        known, live = self._stays.get(pointer.key, []), Stay(pointer.release, since_ms)
        if known and known[-1].release == pointer.release:
            return (*known[:-1], min(known[-1], live))
        return (*known, live)

    def anchor(self, key: PointerKey, gate: GateConfig | None) -> str | None:
        """The release that a pointer's gate compares candidates with beside the live one; None: there is none (yet).

        It is the one that the gate names, else the one that was attested on the pointer before all others.
        """
        if gate is None or not gate.is_anchored:
            return None
        return gate.anchor or self._first.get(key)

    def soaked(self, key: PointerKey) -> Set[str]:
        """The releases that have soaked on a pointer."""
        return self._soaked.get(key, frozenset())

    def is_soaked(self, key: PointerKey, release: str) -> bool:
        """Tells whether a release has served a pointer for long enough."""
        return release in self.soaked(key)

    def is_breached(self, pointer: PointerState, release: str) -> bool:
        """Tells whether a release counts as breached on a pointer: it was attested so, and nobody has lifted it."""
        if release not in self._breached.get(pointer.key, {}):
            return False
        return breach_of(release, pointer, self.of(pointer.key)) is not None

    def flag(self, key: PointerKey, release: str) -> FlagRecord | None:
        """The newest record of a release's flag on a pointer; None: it was never flagged."""
        return self._flags[key][release][0] if release in self._flags.get(key, {}) else None

    def deprecation(self, release: Release) -> Deprecation | None:
        """From when on a release's adapter or weights are not promoted; None: nobody has said so."""
        stated = (self.deprecated.get(part) for part in (release.adapter or "", release.served_base))
        return next((deprecation for deprecation in stated if deprecation is not None), None)

    def comparison(self, key: PointerKey, release: str) -> ComparisonResult | None:
        """The result of a release's newest A/B on a pointer; None: there was none."""
        return self._comparisons.get(key, {}).get(release)

    def looks_against(self, key: PointerKey, live: str, suite: str) -> list[Look]:
        """The results of a pointer's gate on a suite against a release that was live, oldest first."""
        return [look for on, look in self._looks.get((key, live), ()) if on == suite]

    def gate(self, key: PointerKey, release: str) -> GateResult | None:
        """The newest result of a pointer's gate for a release; None: it was never judged."""
        return self._gates.get(key, {}).get(release)


CHANGES_TARGET = frozenset(
    {
        AttestationKind.ATTESTED,
        AttestationKind.SOAKED,
        AttestationKind.BREACHED,
        AttestationKind.FLAG,
        AttestationKind.REVOCATION,
    }
)
"""Kinds that change where R goes, and so which releases are worth a slot on the nodes."""

Stated = BaseModel | dict[str, Any]
"""The body of an attestation: a document of its kind, or its fields as JSON."""

Follower = Callable[[Attestation, Sequence[PointerKey]], None]
"""Called with a durable attestation and the pointers that it concerns."""


@dataclass(eq=False)
class Attestations:
    """Writes attestations. `facts` is what they add up to."""

    _store: StoreThread
    facts: Facts
    _state: FoldedLog
    _clock: Clock
    followers: list[Follower] = field(default_factory=list, init=False)
    """Are called with all attestations from now on, one after the other."""

    def draft(
        self, kind: AttestationKind, subject: str, tenant: str, body: Stated, by: str, route: str | None = None
    ) -> Attestation:
        """An attestation of this moment. Nothing is written."""
        said, now = body.model_dump(mode="json") if isinstance(body, BaseModel) else body, self._clock.now_ms()
        return Attestation(kind=kind, subject=subject, tenant=tenant, route=route, body=said, by=by, at_ms=now)

    async def find(self, **wanted: Unpack[AttestationFilter]) -> list[Attestation]:
        """The attestations that fit, oldest first."""
        return await self._store(lambda s: s.attestations(**wanted))

    async def evaluated_on(self, tenant: str, suite: str) -> list[Look]:
        """A tenant's evaluations on a suite, oldest first."""
        return await self._store(lambda s: s.evaluated_on(tenant, suite))

    async def add(self, attestation: Attestation) -> Attestation:
        """Writes an attestation; returns it as it was written."""
        written = await self._store(lambda s: s.attest(attestation))
        self._publish(written)
        return written

    async def state(
        self, kind: AttestationKind, subject: str, tenant: str, body: Stated, by: str, route: str | None = None
    ) -> Attestation:
        """Writes an attestation of this moment; returns it as it was written."""
        return await self.add(self.draft(kind, subject, tenant, body, by, route))

    async def add_all(self, attestations: Sequence[Attestation], *, background: bool = False) -> None:
        """Writes several attestations in one transaction: all or none. In the background they wait for moves."""
        for written in await self._store(lambda s: s.attest_all(attestations), background=background):
            self._publish(written)

    def _publish(self, written: Attestation) -> None:
        self.facts.add(written)
        if written.route is not None:
            keys = [(written.tenant, written.route)]
        else:
            keys = [key for key in self._state.pointers if key[0] == written.tenant]
        for follower in self.followers:
            follower(written, keys)
