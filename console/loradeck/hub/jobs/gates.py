"""Gates: each new evaluation report has the gates that ask for it judged, and their results attested."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import BaseModel, ValidationError

from loradeck.artifacts import BadArtifact, Blobs
from loradeck.artifacts.rows.suite_items import groups_in
from loradeck.hub.jobs.job_records import JobRecords
from loradeck.hub.log.attestations import CHANGES_TARGET, Attestations
from loradeck.hub.log.background import Background
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.rules.access import SIGNED_IN
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.quality import gates, tries
from loradeck.rules.quality.duties import Involved
from loradeck.rules.quality.gates import GateRecords
from loradeck.rules.quality.review import EMPTY, Edges, EdgesOf, in_force
from loradeck.rules.quality.stakeholders import Card, card
from loradeck.schemas.attestation import (
    Attestation,
    AttestationKind,
    CanaryRecord,
    EvaluationReport,
    GateResult,
    LeakReport,
    Look,
    MergeReport,
)
from loradeck.schemas.candidate import ComparisonResult
from loradeck.schemas.dataset_ledger import fits
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.gate import GateConfig
from loradeck.schemas.ids import Digest, PointerKey
from loradeck.schemas.jobs import JobQuery
from loradeck.schemas.judge_report import JudgeReport
from loradeck.schemas.manifest import SuiteManifest, SuiteUse
from loradeck.schemas.review import Review
from loradeck.schemas.suite import Groups, HarnessReport

log = logging.getLogger("loradeck.hub.jobs.gates")

_BODIES: dict[AttestationKind, type[BaseModel]] = {
    AttestationKind.EVALUATION: EvaluationReport,
    AttestationKind.ARM: EvaluationReport,
    AttestationKind.CANARY: CanaryRecord,
    AttestationKind.MERGE: MergeReport,
    AttestationKind.LEAK: LeakReport,
    AttestationKind.JUDGED: JudgeReport,
    AttestationKind.HARNESS: HarnessReport,
}


def checked(attestation: Attestation) -> Attestation:
    """An attestation whose body fits its kind and is about its subject. Raises: Refused `invalid_request`."""
    kind = _BODIES.get(attestation.kind)
    if kind is None:
        return attestation
    try:
        body = kind.model_validate(attestation.body)
    except ValidationError as error:
        title = f"the body is no {attestation.kind.value}"
        raise Refused("invalid_request", title, detail=first_wrong(error, "body")) from None
    if getattr(body, "release", None) != attestation.subject:
        raise Refused("invalid_request", "the body is about another release than `subject`", detail="body.release")
    return attestation


class _Told(NamedTuple):
    """A report, who sent it (None: a job made it), and when it was attested."""

    by: str | None
    at_ms: int
    report: EvaluationReport


@dataclass(eq=False, kw_only=True)
class Gates:
    """Judges the gates of pointers by the log, the registry and what is attested."""

    log: Log
    state: FoldedLog
    catalogue: Catalogue
    attestations: Attestations
    jobs: JobRecords
    blobs: Blobs
    background: Background
    clock: Clock
    people_sign_in: bool
    _authors: dict[Digest, frozenset[str]] = field(default_factory=dict, init=False)
    _groups: dict[Digest, Groups] = field(default_factory=dict, init=False)
    _looks: dict[tuple[str, Digest], list[Look]] = field(default_factory=dict, init=False)
    """(tenant, suite) -> that tenant's evaluations on it, oldest first, where its gates were judged since the start."""

    async def attest(self, attestation: Attestation) -> Attestation:
        """Writes an attestation that somebody sent, and judges the gates that it bears on.

        One that is attested already is answered with the first: a repeated report changes nothing.

        Raises: Refused `invalid_request`.
        """
        attestation = checked(attestation)
        kind, subject = attestation.kind, attestation.subject
        for known in await self.attestations.find(kind=kind, subject=subject):
            said = (known.tenant, known.route, known.body) == (attestation.tenant, attestation.route, attestation.body)
            if said and (kind is not AttestationKind.CANARY or known.by == attestation.by):  # each node has a voice
                return known
        written = await self.attestations.add(attestation)
        if kind is AttestationKind.EVALUATION:
            # Whichever route it was made for: a score on a suite counts wherever a gate asks for that suite.
            suite = str(attestation.body["suite"])
            self._looks.get((attestation.tenant, suite), []).append(Look(subject, written.seq, written.at_ms))
            for key, gate in self._gates_of(attestation.tenant):
                if any(part.suite == suite for part in gate.suites):
                    await self.judge(key, subject)
        if kind in (AttestationKind.LEAK, AttestationKind.JUDGED):
            for key, gate in self._gates_of(attestation.tenant):
                if (gate.leak if kind is AttestationKind.LEAK else gate.judge) is not None:
                    await self.judge(key, subject)
        return written

    async def report_on(self, release: Digest, gate: GateConfig) -> EvaluationReport | None:
        """The newest report of a release on a gate's own suite; None: there is none."""
        found = (await self._reports(release, gate)).get(gate.suite)
        return found.report if found is not None else None

    async def lacking(self, key: PointerKey, release: Digest) -> list[tuple[Digest, Digest | None]]:
        """The evaluations that a pointer's gate lacks of a release, its live release and its anchor.

        (release, suite); None in place of a suite: of the rows that it reproduces.
        """
        gate, found = self.state.config(key).gate, list[tuple[Digest, Digest | None]]()
        if gate is None:
            return found
        pointer = self.state.pointers.get(key)
        for one in dict.fromkeys((release, pointer.release if pointer is not None else None, self.anchor(key))):
            told, suites = await self._reports(one, gate) if one is not None else {}, gate.suites
            asked = [part.suite for part in suites if one == release or part.max_drop < 1]
            found += [(one, suite) for suite in asked if one is not None and suite not in told]
        if gate.leak is not None and not await self.attestations.find(kind=AttestationKind.LEAK, subject=release):
            found.append((release, None))
        return found

    async def reviews_of(self, key: PointerKey, release: Digest) -> list[Attestation]:
        """The reviews that people have signed for a release on a route, oldest first."""
        tenant, route = key
        return await self.attestations.find(kind=AttestationKind.REVIEW, subject=release, tenant=tenant, route=route)

    async def _signed(self, key: PointerKey, release: Digest) -> list[tuple[str, Review]]:
        return [(one.by, Review.model_validate(one.body)) for one in await self.reviews_of(key, release)]

    def live(self, key: PointerKey, release: Digest) -> Digest | None:
        """The live release of a pointer, against which another is judged; None: there is none, or it is that one."""
        pointer = self.state.pointers.get(key)
        return pointer.release if pointer is not None and pointer.release != release else None

    async def edges(self, gate: GateConfig, against: Collection[Digest | None]) -> EdgesOf:
        """Collects what tells where a release fails first on a gate's suite, by the release that is live beside it."""
        slices = (await self.groups(gate.suite)).slices
        told = {one: (await self._reports(one, gate)).get(gate.suite) if one is not None else None for one in against}
        return {one: Edges(slices=slices, live=at.report if at is not None else None) for one, at in told.items()}

    async def involved(self, key: PointerKey, release: Digest) -> Involved:
        """Finds who had a release made, and who has reviewed it for a route and found it good."""
        gate = self.state.config(key).gate
        report = await self.report_on(release, gate) if gate is not None and gate.review is not None else None
        found: dict[str, str] = {}
        if gate is not None and gate.review is not None and report is not None:
            signed = await self._signed(key, release)
            edges = await self.edges(gate, {one.against for _, one in signed})
            for by, said in in_force(report, gate.review, signed, edges).items():
                if said.bad <= gate.review.max_bad and self._is_person(said):
                    found[by] = said.person
        return Involved(authors=await self._authors_of(release), validators=found)

    async def card(self, tenant: str, *releases: Digest | None) -> Card:
        """Finds what is attested of a tenant's releases and their data, and stands in their cards."""
        facts, find = self.attestations.facts, self.attestations.find
        subjects, datasets = set[Digest](), set[Digest]()
        for release in (self.catalogue.release(one, tenant) for one in releases if one is not None):
            if release is None:
                continue
            version = self.catalogue.version_of(release)
            subjects |= {release.id, release.signed_part}
            datasets |= {one for origin in facts.made.get(release.served_base, ()) for one in origin.datasets}
            if version is not None:
                sheet = version.manifest.decision.worksheet
                subjects |= {version.digest, *((sheet,) if sheet is not None else ())}
                datasets |= {*version.manifest.datasets}
        stated = [one for each in sorted(subjects | datasets) for one in await find(subject=each)]
        sources = {source for one in datasets if one in facts.ledger for source in facts.ledger[one].entry.sources}
        assessed = await find(kind=AttestationKind.ASSESSMENT, tenant=tenant)
        stated += [one for one in assessed if any(fits(str(one.body["source"]), source) for source in sources)]
        return await asyncio.to_thread(card, stated)

    def _is_person(self, review: Review) -> bool:
        return not self.people_sign_in or review.person.startswith(SIGNED_IN)

    def attested(self, attestation: Attestation, _: Sequence[PointerKey]) -> None:
        """Judges gates again that come after a route on which something is attested; a follower of the attestations."""
        compared = attestation.kind is AttestationKind.COMPARISON
        if attestation.route is None or not (compared or attestation.kind in CHANGES_TARGET):
            return
        for key, gate in self._gates_of(attestation.tenant):
            asks = gate.compare is not None and (gate.compare.route or key[1]) == attestation.route
            if asks if compared else gate.after == attestation.route:
                self.background.spawn(self.judge(key, attestation.subject))

    async def judge(self, key: PointerKey, release: Digest) -> GateResult | None:
        """Judges a pointer's gate for a release, against what is live now. A new result is attested.

        None: the pointer has no gate, or the release lacks a report on one of its suites, on its leaks or by its judge.
        """
        gate = self.state.config(key).gate
        if gate is None:
            return None
        suites, live = self.catalogue.suites, self.live(key, release)
        own = await self._reports(release, gate)
        alone = gate.review is None or gate.review.people == 1
        compared = await self._reports(live, gate) if live is not None else {}
        anchor = self.anchor(key)
        steady = await self._reports(anchor, gate) if anchor is not None and anchor not in (release, live) else None
        told, called = (*own.values(), *compared.values(), *(steady or {}).values()), self.catalogue.called
        signed = [(by, one) for by, one in await self._signed(key, release) if alone or self._is_person(one)]
        now_ms = self.clock.now_ms()
        expired = {r.report.release for r in told if gates.is_expired(r.at_ms, gate, now_ms)}
        find, judge = self.attestations.find, gate.judge
        leaks = await find(kind=AttestationKind.LEAK, subject=release) if gate.leak is not None else []
        said = await find(kind=AttestationKind.JUDGED, subject=release) if judge is not None else []
        judged = [one for one in said if judge is not None and one.body["judge"] == judge.digest]
        if any(found and gates.is_expired(found[-1].at_ms, gate, now_ms) for found in (leaks, judged)):
            expired.add(release)
        evidence = GateRecords(
            reports={suite: one.report for suite, one in own.items()},
            live={suite: one.report for suite, one in compared.items()},
            anchor=(anchor, {suite: one.report for suite, one in steady.items()})
            if anchor is not None and steady is not None
            else None,
            imported=sorted({f"{called(r.report.release)} by {r.by}" for r in told if r.by is not None}),
            expired=sorted(called(release) for release in expired),
            looks=len({look.release for look in await self._looked_at(key[0], gate.suite)}),
            tried={part.suite: await self._tried(key, release, part.suite) for part in gate.suites},
            authors=await self._authors_of(release) if gate.review is not None else frozenset(),
            groups={part.suite: await self.groups(part.suite) for part in gate.suites},
            canaries={part.suite: suites[part.suite].canaries for part in gate.suites if part.canaries},
            reviews=signed,
            edges=await self.edges(gate, {one.against for _, one in signed}) if signed else EMPTY,
            stage=self._stage(key[0], gate, release),
            comparison=self._comparison(key, gate, release),
            leak=LeakReport.model_validate(leaks[-1].body) if leaks else None,
            judged=JudgeReport.model_validate(judged[-1].body) if judged else None,
        )
        if not gates.is_reported(gate, evidence):
            return None
        # Sums over thousands of items take longer than a move may wait for the event loop.
        result = await asyncio.to_thread(gates.judge, release, live, gate, evidence)
        known = self.attestations.facts.gate(key, release)
        if known is None or result != known.model_copy(update={"looks": result.looks}):
            await self.attestations.state(AttestationKind.GATE, release, key[0], result, "hub", key[1])
            log.info("gate pointer=%s/%s release=%s passed=%s", *key, release[:6], result.passed)
        return result

    def anchor(self, key: PointerKey) -> Digest | None:
        """The release that a pointer's gate compares candidates with beside the live one; None: there is none (yet)."""
        return self.attestations.facts.anchor(key, self.state.config(key).gate)

    def anchored(self, key: PointerKey, gate: GateConfig) -> GateConfig:
        """A gate that is about to be set on a pointer, with the anchor that it has then."""
        pointer, attested = self.state.pointers.get(key), self.attestations.facts.of(key).attested
        live = pointer.release if pointer is not None and pointer.release in attested else None
        return gates.anchored(gate, self.anchor(key), live)

    async def _looked_at(self, tenant: str, suite: Digest) -> list[Look]:
        if (tenant, suite) not in self._looks:
            self._looks[tenant, suite] = await self.attestations.evaluated_on(tenant, suite)
        return self._looks[tenant, suite]

    async def _tried(self, key: PointerKey, release: Digest, suite: Digest) -> int:
        """Which try on a suite a release is since the pointer's live release went live."""
        live, pointer = self.live(key, release), self.state.pointers.get(key)
        if live is None or pointer is None:
            return 1
        looks, judged = await self._looked_at(key[0], suite), self.attestations.facts.looks_against(key, live, suite)
        not_tried = [one for one in (live, self.anchor(key)) if one is not None]
        # Not since the last move: a candidate that is started and ended moves the pointer too.
        since_ms = await self.log.live_since(pointer)
        return tries.number_of(release, looks, judged, since_ms or 0, not_tried)

    async def groups(self, suite: Digest) -> Groups:
        """Says how the items of a registered suite belong together; unknown where its files are gone from the hub."""
        if suite not in self._groups:
            try:
                self._groups[suite] = await self._read(self.catalogue.suites[suite])
            except BadArtifact:
                return Groups()
        return self._groups[suite]

    async def _read(self, suite: SuiteManifest) -> Groups:
        async with self.blobs.local(file.sha256 for file in suite.files) as here:
            paths = {file.path: here[file.sha256] for file in suite.files}
            return await asyncio.to_thread(groups_in, paths)

    async def check_suites(self, tenant: str, gate: GateConfig) -> None:
        """Checks that a gate that is to be set names no suite for selection, nor one that asks what such a suite asks.

        Raises: Refused `selection_suite`.
        """
        suites = self.catalogue.suites
        for part in gate.suites:
            manifest = suites[part.suite]
            if manifest.use is SuiteUse.SELECTION:
                raise Refused(
                    "selection_suite",
                    f"the suite {manifest.name} is for selection: releases that were chosen by it are not judged by it",
                    detail=part.suite,
                    fix="name a suite of other items, registered with --for gate",
                )
            for digest, other in suites.items():
                if other.tenant == tenant and other.use is SuiteUse.SELECTION:
                    of = await self.groups(part.suite), await self.groups(digest)
                    gates.require_disjoint(*of, (manifest.name, other.name))

    async def check_selection(self, suite: SuiteManifest) -> None:
        """Checks that a suite that is to be registered for selection asks nothing that its tenant's gates ask.

        Raises: Refused `selection_suite`; BadArtifact: its items cannot be read.
        """
        asked = {part.suite for _, gate in self._gates_of(suite.tenant) for part in gate.suites}
        own = await self._read(suite) if suite.use is SuiteUse.SELECTION and asked else Groups()
        for digest in sorted(asked):
            name = self.catalogue.suites[digest].name
            gates.require_disjoint(await self.groups(digest), own, (name, suite.name))

    async def _reports(self, release: Digest, gate: GateConfig) -> dict[Digest, _Told]:
        """The report that counts on each suite of a gate, where there is one.

        It is the newest of jobs. One that somebody sent counts only where no job has made any, and one whose choices
        were made by the mean over tokens does not.
        """
        newest: dict[str, Attestation] = {}
        for one in await self.attestations.find(kind=AttestationKind.EVALUATION, subject=release):
            known = newest.get(suite := str(one.body.get("suite")))
            if known is None or one.is_from_a_job or not known.is_from_a_job:
                newest[suite] = one
        found = {part.suite: newest[part.suite] for part in gate.suites if part.suite in newest}
        return {
            suite: _Told(None if one.is_from_a_job else one.by, one.at_ms, report)
            for suite, one in found.items()
            if gates.counts(report := EvaluationReport.model_validate(one.body))
        }

    async def _authors_of(self, release: Digest) -> frozenset[str]:
        """Finds who had a release made: who registered its adapter, and who submitted the jobs that made it."""
        found = self.catalogue.releases.get(release)
        if found is None:
            return frozenset()
        if release not in self._authors:
            version, made = self.catalogue.version_of(found), self.attestations.facts.made
            ids = {one.job for base in (found.base, found.served_base) for one in made.get(base, ())}
            jobs = [job for job in [await self.jobs.find_one(id_) for id_ in sorted(ids)] if job is not None]
            if version is not None:
                query = JobQuery(tenant=found.tenant, kind="train", match=version.digest)
                jobs += await self.jobs.find(query, lambda tenant: True)
            by = frozenset({job.by for job in jobs} | ({version.created_by} if version is not None else set()))
            if not jobs:
                return by  # the job may not be over yet
            self._authors[release] = by
        return self._authors[release]

    def _gates_of(self, tenant: str | None) -> list[tuple[PointerKey, GateConfig]]:
        """The gates of a tenant's routes. Every attestation needs them, so other tenants are not looked through."""
        state = self.state.tenants.get(tenant or "")
        if state is None:
            return []
        return [((state.name, route), config.gate) for route, config in sorted(state.routes.items()) if config.gate]

    def _comparison(self, key: PointerKey, gate: GateConfig, release: Digest) -> ComparisonResult | None:
        """The newest A/B of a release against what is live on the route on which the gate asks for it."""
        if gate.compare is None:
            return None
        at = (key[0], gate.compare.route or key[1])
        found, pointer = self.attestations.facts.comparison(at, release), self.state.pointers.get(at)
        if found is None or pointer is None:
            return None
        return found if pointer.release in (found.against, release) else None

    def _stage(self, tenant: str, gate: GateConfig, release: Digest) -> str:
        if gate.after is None:
            return ""
        key = (tenant, gate.after)
        pointer = self.state.pointers.get(key)
        return gates.lacks(release, gate.after, pointer, self.attestations.facts.of(key))
