"""Datasets, suites and the dataset ledger: every row is read and scanned when its dataset or suite is registered.

Rows are read by a child process, so that a move never waits for them.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from loradeck.artifacts import BadArtifact, Blobs, child_process
from loradeck.artifacts.rows import dataset_rows
from loradeck.artifacts.rows.barred_rows import Barred
from loradeck.artifacts.rows.dataset_rows import Held, Task
from loradeck.artifacts.rows.suite_items import verify_suite
from loradeck.hub.data import judged_rows
from loradeck.hub.data.erasure_list import ErasureList
from loradeck.hub.data.judged_rows import JudgedTask
from loradeck.hub.data.lineage import Lineage
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Registry
from loradeck.hub.log.clock import Clock
from loradeck.rules.data import policy, preferences
from loradeck.rules.data.lineage import NO_DESCENT
from loradeck.rules.data.policy import check_assessed, signed_for
from loradeck.rules.data.synthetic import trained_on
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.attestation import AttestationKind, BaseLineage
from loradeck.schemas.dataset_ledger import SHARED, TRAIN, LedgerEntry, NameModels, Place, Reading, ScanReport
from loradeck.schemas.ids import short
from loradeck.schemas.jobs import Job, TrainSpec
from loradeck.schemas.manifest import DatasetManifest, Release, SuiteManifest
from loradeck.schemas.preference import PreferenceDataset, PreferenceReport
from loradeck.schemas.route import RowPrompt
from loradeck.schemas.training import QualityWeights
from loradeck.store.interface import Doc

log = logging.getLogger("loradeck.hub.data.datasets")

_places = TypeAdapter(list[Place])
_prompts = TypeAdapter(list[RowPrompt])


@dataclass(eq=False)
class Datasets:
    """Registers datasets and suites, and checks what may be trained on. `_blobs` are the files at the hub.

    `names`: the models that look for names in rows; None: nothing does.
    """

    _state: FoldedLog
    _registry: Registry
    _attestations: Attestations
    _lineage: Lineage
    _blobs: Blobs
    _clock: Clock
    _list: ErasureList
    names: NameModels | None = None
    _sealed: set[str] = field(default_factory=set, init=False)
    """Datasets and suites whose files this process has seen sealed."""

    async def register(
        self,
        manifest: DatasetManifest,
        by: str,
        *,
        accept: str = "",
        tolerated: Set[str] = frozenset(),
        check: Callable[[LedgerEntry], None] = lambda entry: None,
    ) -> LedgerEntry:
        """Registers a dataset whose files are here, and returns its ledger entry: the first one, for a known dataset.

        Args:
            accept: why it is registered although personal data or secrets were found in it.
            tolerated: kinds of findings that need no such reason.
            check: refuses an entry by raising.

        Raises:
            BadArtifact: as `artifacts.rows.dataset_rows.entry_of`.
            Refused: `licence_forbidden`, `toxic_rows`, `sensitive_rows`. Nothing was registered.
        """
        digest, tenant = manifest.digest, manifest.tenant
        kept = self._attestations.facts.ledger.get(digest)
        if kept is not None and digest in self._registry.catalogue.datasets:
            return kept.entry
        reading = Reading.model_validate(await self._read("read", manifest))
        check(reading.entry)
        data = self._state.tenant(tenant).data
        policy.check_licences(reading.entry, data, called(manifest))
        policy.check_toxic(reading.scan, data, called(manifest))
        scan = _accepted(reading.scan, accept, tolerated)
        await self._registry.register(Doc.DATASET, digest, manifest.model_dump(mode="json"), tenant=tenant, by=by)
        stated = {AttestationKind.LEDGER: reading.entry, AttestationKind.SCAN: scan}
        draft = self._attestations.draft
        await self._attestations.add_all([draft(kind, digest, tenant, body, by) for kind, body in stated.items()])
        return reading.entry

    async def register_made(self, body: PreferenceDataset, by: str, *, accept: str = "") -> None:
        """Registers a dataset that is made of judgements here, and attests the agreement behind it.

        It is made anew first, and has their provenance. A known one changes nothing.

        Raises:
            BadArtifact: `bad_judgements`, `not_as_built`, and as `register`.
            Refused: `agreement_low`, `rated_once`, `unknown_dataset`, `manifest_mismatch`, `retention_over`, and as
                `register`.
        """
        manifest, build, facts = body.manifest, body.build, self._attestations.facts
        if facts.judged.get(manifest.digest) == build.judgements:
            return
        source = self._registry.catalogue.datasets.get(build.judgements)
        if source is None or source.tenant != manifest.tenant or source.digest not in facts.ledger:
            raise Refused("unknown_dataset", "this tenant has no such judgements", detail=build.judgements)
        self.check_descent((build.judgements,))
        most = preferences.inherited(source.provenance, self._clock.now_ms() - facts.ledger[source.digest].at_ms)
        own, days = manifest.provenance, manifest.provenance.retention_days
        longer = most.retention_days is not None and not 0 < (days or 0) <= most.retention_days
        if longer or own != most.model_copy(update={"retention_days": days}):
            title = "a dataset made of judgements has their provenance, and is kept no longer"
            raise Refused("manifest_mismatch", title, detail=f"{called(manifest)}, of {called(source)}")
        stated = await self._attestations.find(kind=AttestationKind.ADJUDICATION, tenant=manifest.tenant)
        async with self._held(manifest, source) as held:
            task = JudgedTask(made=held[0].paths, judgements=held[1].paths, build=build, stated=tuple(stated))
            report = PreferenceReport.model_validate(await child_process.ask(judged_rows.__name__, task))
        preferences.check_floors(report)
        preferences.check_rated_twice(report, self._state.tenant(manifest.tenant).data, called(manifest))
        await self.register(manifest, by, accept=accept)
        await self._attestations.state(AttestationKind.AGREEMENT, manifest.digest, manifest.tenant, report, by)

    async def register_suite(self, manifest: SuiteManifest, by: str, *, accept: str = "") -> None:
        """Registers a suite whose files are here. A known suite changes nothing.

        `accept`: why it is registered although personal data or secrets were found in it.

        Raises:
            BadArtifact: `bad_rows`, `manifest_mismatch`, and as `artifacts.rows.barred_rows.Barred.check`.
            Refused: `sensitive_rows`. Nothing was registered.
        """
        digest, tenant = manifest.digest, manifest.tenant
        if digest in self._registry.catalogue.suites:
            return
        async with self._held(manifest) as held:
            await asyncio.to_thread(verify_suite, manifest, held[0].paths)
        read = await self._read("scan", manifest)
        scan = _accepted(ScanReport.model_validate(read), accept)
        await self._attestations.state(AttestationKind.SCAN, digest, tenant, scan, by)
        await self._registry.register(Doc.SUITE, digest, manifest.model_dump(mode="json"), tenant=tenant, by=by)

    async def _read(self, do: Literal["read", "scan"], manifest: DatasetManifest | SuiteManifest) -> Any:
        """Has rows read that may come in, and sealed: once more where what may not has changed meanwhile."""
        asked: dict[str, Any] | None = None
        while asked != (newest := self._newest(manifest.tenant, do)):
            asked = newest
            async with self._held(manifest) as held:
                answer = await child_process.ask(dataset_rows.__name__, Task(do=do, datasets=held, **asked))
            await self._seal(manifest)
        return answer

    def _newest(self, tenant: str, do: str) -> dict[str, Any]:
        toxic = self._state.tenant(tenant).data.toxic if do == "read" else None
        return {"barred": self._barred(tenant), "names": self.names, "toxic": toxic}

    async def prompts(self, tenant: str, dataset: str, most: int) -> list[RowPrompt]:
        """Prompts of a tenant's dataset, at most `most`, spread over it.

        Raises: Refused: `unknown_dataset`, `erased_row`, `no_prompts`.
        """
        manifest = self._registry.catalogue.dataset(tenant, dataset)
        self.check_descent((dataset,))
        async with self._held(manifest) as held:
            task = Task(do="prompts", datasets=held, most=most)
            found = _prompts.validate_python(await child_process.ask(dataset_rows.__name__, task))
        if not found:
            raise Refused(
                "no_prompts",
                "no row of the dataset can be a canary",
                detail=called(manifest),
                fix=f"rows without tools whose prompt has at most {dataset_rows.LONGEST_PROMPT:,} characters can",
            )
        return found

    def check_upload(self, sha256: str) -> None:
        """Checks that a file's rows were not erased: no tenant may bring them back. Raises: Refused: `erased_row`."""
        named = self._registry.catalogue.rows_in.get(sha256, set())
        lifted = any(tenant.data.lift_erasures for tenant in self._state.tenants.values())
        if named and named <= self._attestations.facts.erased.keys() and not lifted:
            raise Refused(
                "erased_row", "the file holds rows that were erased", detail=sha256, fix="send it without them"
            )

    def check_training(self, tenant: str, datasets: Iterable[str], quality: QualityWeights | None = None) -> None:
        """Checks that a tenant may train on these datasets together, drawn with these weights.

        Raises: Refused: `unknown_dataset`, `rated_once`, and whatever `rules.data.policy` refuses of training.
        """
        wanted = tuple(dict.fromkeys(datasets))
        for digest in wanted:
            self._registry.catalogue.dataset(tenant, digest)
        self.check_descent(wanted)
        names = {digest: self._called(digest) for digest in wanted}
        kept, data = self._attestations.facts.ledger, self._state.tenant(tenant).data
        for digest in wanted:
            if (report := self._attestations.facts.agreed.get(digest)) is not None:
                preferences.check_rated_twice(report, data, names[digest])
        policy.check_training(wanted, kept, data, now_ms=self._clock.now_ms(), names=names)
        if quality is not None:
            policy.check_quality(quality, wanted, kept, names)
        self.check_assessed(tenant, wanted)

    def check_shared(self, tenant: str, base: str, jobs: Iterable[Job]) -> None:
        """Checks that a base which a tenant's job made may be for other tenants too, by all that it has learnt.

        `jobs`: all that there ever were. They know who taught an adapter, which its manifest does not say.

        Raises: Refused: `purpose_not_allowed`, `no_dpia`, `no_depth`, `erased_row`.
        """
        taught = {
            str((job.result or {}).get("adapter")): [
                BaseLineage(tenant=tenant, job=job.id, base=spec.distillation.teacher)
            ]
            for job in jobs
            if isinstance(spec := job.spec, TrainSpec) and spec.distillation is not None
        }
        learnt = sorted(
            trained_on(
                Release.of_base(tenant, base),
                adapters=self._registry.catalogue.adapters,
                releases=self._lineage.releases().values(),
                made={**self._attestations.facts.made, **taught},
            )
        )
        self.check_descent(learnt, base=base)
        policy.check_shared(learnt, self._attestations.facts.ledger, {d: self._called(d) for d in learnt})
        self.check_assessed(tenant, learnt, SHARED)

    def check_assessed(self, tenant: str, datasets: Iterable[str], purpose: str = TRAIN) -> None:
        """Checks that impact assessments cover datasets now, where the policy asks. Raises: Refused: `no_dpia`."""
        facts, data = self._attestations.facts, self._state.tenant(tenant).data
        for digest in datasets:
            entry, at = facts.ledger[digest].entry, self._clock.now_ms()
            check_assessed(entry, data, facts.assessed[tenant], purpose, now_ms=at, called=self._called(digest))

    def _called(self, dataset: str) -> str:
        return called(self._registry.catalogue.datasets[dataset])

    def _barred(self, tenant: str) -> Barred:
        self._list.check()
        data, facts = self._state.tenant(tenant).data, self._attestations.facts
        return Barred(
            tenant=tenant,
            people=frozenset(facts.opted_out[tenant]),
            rows=policy.barred_rows(tenant, data, facts.erased_of),
            sources=data.regulated_sources,
            assessed=signed_for(facts.assessed[tenant].values(), TRAIN, self._clock.now_ms()),
            columns=data.regulated_columns,
        )

    def _blocked(self) -> dict[str, set[str]]:
        """Dataset -> its rows that were erased there, or at another tenant and not lifted. Raises: Refused."""
        self._list.check()
        facts = self._attestations.facts
        blocked = {dataset: set(rows) for dataset, rows in facts.erased.items()}
        for dataset, rows in facts.erased_elsewhere.items():
            manifest = self._registry.catalogue.datasets.get(dataset)  # a restored log may lack it
            if manifest is None or not self._state.tenant(manifest.tenant).data.lift_erasures:
                blocked.setdefault(dataset, set()).update(rows)
        return blocked

    def check_descent(
        self,
        datasets: Iterable[str] = (),
        *,
        base: str | None = None,
        parent: str | None = None,
        release: str | None = None,
    ) -> None:
        """Checks that nothing descends from erased rows: not what is trained on, nor a base, a parent or a release.

        Raises: Refused: `erased_row`.
        """
        blocked, facts, catalogue = self._blocked(), self._attestations.facts, self._registry.catalogue
        erased = self._lineage.descent(blocked) if blocked else NO_DESCENT
        for digest in datasets:
            manifest = catalogue.datasets.get(digest)
            name = called(manifest) if manifest is not None else digest
            if digest in erased.datasets and digest not in blocked:
                raise Refused(
                    "erased_row",
                    "rows of the dataset were written by a release that descends from erased rows, or made of such "
                    "judgements",
                    detail=name,
                    fix="register it anew without the rows of that release, or build it of judgements without them",
                )
            if digest in blocked:
                gone, lifts = sorted(blocked[digest]), ", or lift it: loradeck tenant data TENANT --lift-erasures WHY"
                raise Refused(
                    "erased_row",
                    "rows of the dataset were erased: it may not be trained on any more",
                    detail=f"{name}: {', '.join(short(row) for row in gone)}",
                    fix="register it anew without them" + ("" if digest in facts.erased else lifts),
                    context={"rows": gone},
                )
        for what, subject, found in (
            (catalogue.called(release), release, erased.releases),
            ("the parent adapter", parent, erased.adapters),
            (f"base {catalogue.base_label(base)}", base, erased.bases),
        ):
            if subject is None or subject not in found:
                continue
            raise Refused(
                "erased_row",
                f"{what} descends from erased rows",
                detail=subject,
                fix="train it again from its base on a dataset without them",
            )

    async def find(
        self, among: Sequence[DatasetManifest | SuiteManifest], wanted: Sequence[str], containing: str | None
    ) -> list[Place]:
        """Finds rows by their digests or a text in them, in datasets and suites whose files are here.

        Raises: BadArtifact: `bad_rows`.
        """
        async with self._held(*among) as held:
            task = Task(do="find", datasets=held, rows=tuple(wanted), containing=containing)
            return _places.validate_python(await child_process.ask(dataset_rows.__name__, task))

    async def _seal(self, manifest: DatasetManifest | SuiteManifest, shared: Set[str] = frozenset()) -> None:
        """Puts the files of a dataset or suite under its key. `shared`: those that another one has, not sealed yet."""
        files = [file.sha256 for file in manifest.files]
        await asyncio.to_thread(self._blobs.seal, manifest.digest, manifest.tenant, files, shared)
        self._sealed.add(manifest.digest)

    async def seal_all(self) -> None:
        """Seals what came in before there were keys, once; what failed is tried again by the next call."""
        catalogue, erased = self._registry.catalogue, self._attestations.facts.erased
        known: list[DatasetManifest | SuiteManifest] = [*catalogue.datasets.values(), *catalogue.suites.values()]
        waiting = [one for one in known if one.digest not in self._sealed]
        users = Counter(sha256 for one in waiting for sha256 in {file.sha256 for file in one.files})
        for one in waiting:
            own = {file.sha256 for file in one.files}
            try:
                if one.digest not in erased and not self._state.tenant(one.tenant).offboarded:
                    await self._seal(one, {sha256 for sha256 in own if users[sha256] > 1})
                users.subtract(own)
            except BadArtifact as bad:
                log.error("the rows of %s are not sealed yet: %s", called(one), bad)

    @asynccontextmanager
    async def _held(self, *these: DatasetManifest | SuiteManifest) -> AsyncIterator[tuple[Held, ...]]:
        """Datasets and suites with their files on this machine."""
        async with self._blobs.local(file.sha256 for one in these for file in one.files) as paths:
            yield tuple(
                Held(
                    digest=one.digest,
                    manifest=one if isinstance(one, DatasetManifest) else None,
                    paths={file.path: paths[file.sha256] for file in one.files},
                )
                for one in these
            )


def _accepted(scan: ScanReport, accept: str, tolerated: Set[str] = frozenset()) -> ScanReport:
    """A scan as it is attested: without findings but tolerated ones, or with the reason why they may stay.

    Raises: Refused: `sensitive_rows`.
    """
    if {finding.kind for finding in scan.findings} <= tolerated:
        return scan
    if not accept:
        found = (f"{f.kind} in {f.rows} rows ({', '.join(f.where[:3])})" for f in scan.findings)
        raise Refused(
            "sensitive_rows",
            "rows hold what looks like personal data or secrets",
            detail="; ".join(found),
            fix="take it out, or say why it may stay (--accept-findings WHY)",
            context={"scan": scan.model_dump(mode="json")},
        )
    return scan.model_copy(update={"accepted": accept})


def called(manifest: DatasetManifest | SuiteManifest) -> str:
    """A dataset or suite as people name it: 'acme/tickets'."""
    return f"{manifest.tenant}/{manifest.name}"
